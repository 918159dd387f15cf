"""What the waves of a search cost: FLOPs, bytes and seconds, added up from what was counted and measured of parts."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.profile import Layout
from pipelines.planning.calibration import Input, Timing, Work
from pipelines.planning.waves import SPLITS, Crew, Depths, Epoch, Wave, structure
from utuning.configs import TrialConfig
from utuning.costs import Cost, shared_flops
from utuning.prefix import CACHE_DTYPES, cheapest_needs
from utuning.prefix_files import Layout as StateFiles

EFFICIENCY_OF_TWO = 0.85
"""Two workers of one machine share its memory bandwidth and wait for each other: together they are 1.7 times one."""
ROUND_S = 0.5
"""Between two epochs Tune is told, decides and asks again, and a cohort waits a little for those who come and go."""
REPORT_S = 0.1
"""A member's state and bundle are saved after each epoch, and its metrics written to the tracking store."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was counted: costs by the trial's structure, FLOPs and shapes of the frozen states, images by split."""

    costs: Mapping[str, Cost]
    frozen: Sequence[int]
    shapes: Mapping[int, tuple[int, ...]]
    num_images: Mapping[str, int]

    def cost(self, trial: TrialConfig) -> Cost:
        """What a trial's member costs."""
        return self.costs[structure(trial)]

    def work(self, crew: Crew) -> Work:
        """FLOPs an image of members together."""
        costs, num_images = [self.cost(trial) for trial in crew.trials], crew.trials[0].train.batch_size
        shared = shared_flops(costs, self.frozen, crew.known)
        return Work(
            step=shared + sum(cost.step.at(num_images) for cost in costs) / num_images,
            evaluate=shared + sum(cost.evaluate.at(num_images) for cost in costs) / num_images,
            num_members=len(costs),
        )

    def num_steps(self, crew: Crew, split: str) -> int:
        """Batches of an epoch; the last one is filled up."""
        return math.ceil(self.num_images[split] / crew.trials[0].train.batch_size)

    def flops(self, epochs: Iterable[Epoch]) -> dict[str, float]:
        """FLOPs of these epochs, by the key of the crew that they are spent on."""
        spent: dict[str, float] = {}
        for crew, split in ((getattr(epoch, split), split) for epoch in epochs for split in SPLITS):
            work = self.work(crew)
            of_image = work.step if split == "train" else work.evaluate
            num_images = self.num_steps(crew, split) * crew.trials[0].train.batch_size
            spent[crew.key] = spent.get(crew.key, 0.0) + of_image * num_images
        return spent

    def cacheable(self, wave: Wave, cache_bytes: float) -> tuple[Depths, Depths]:
        """The states of train and of val that a wave keeps, the cheapest needs first, within its cache."""
        if wave.trials[0].views == "online":
            return frozenset(), frozenset()
        total = sum(self.num_images[split] for split in SPLITS)
        train, val = (self._chosen(wave, split, cache_bytes * self.num_images[split] / total) for split in SPLITS)
        return train, val

    def cached_bytes(self, waves: Sequence[Wave]) -> int:
        """Bytes of all the states that waves would keep if there were room; val's are the same for all seeds."""
        wanted: dict[tuple[str, str], Depths] = {}
        for wave in waves:
            for split, depths in zip(SPLITS, self.cacheable(wave, math.inf), strict=True):
                drawn = wave.cohort_key if split == "train" else ""
                wanted[split, drawn] = wanted.get((split, drawn), frozenset()) | depths
        return sum(self._state_bytes(waves[0].trials[0], split, depths) for (split, _), depths in wanted.items())

    def _chosen(self, wave: Wave, split: str, room: float) -> Depths:
        trial = wave.trials[0]
        reads = [self.cost(each).reads for each in wave.trials]
        return cheapest_needs(reads, lambda depths: self._state_bytes(trial, split, depths), room)

    def _state_bytes(self, trial: TrialConfig, split: str, depths: Collection[int]) -> int:
        dtype, num_rows = CACHE_DTYPES[trial.cache_dtype], self.num_images[split]
        views = trial.views if split == "train" and trial.views != "online" else 1
        files = [StateFiles(num_rows, self.shapes[depth], dtype) for depth in depths if depth >= 0]
        return views * sum(sum(each.sizes.values()) for each in files)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What was measured: timings by crew, and images."""

    counted: Counted
    timings: Mapping[str, Timing]
    input: Input

    def wave_s(self, epochs: Sequence[Epoch], layout: Layout, num_cohorts: int) -> float:
        """Seconds of a wave while so many cohorts run on the machine."""
        efficiency = parallel_efficiency(layout.num_workers * num_cohorts)
        steps = sum(self.train_s(epoch, layout) + self._pass_s(epoch, "val", layout) for epoch in epochs)
        return steps / efficiency + sum(ROUND_S + REPORT_S * len(epoch.train.trials) for epoch in epochs)

    def train_s(self, epoch: Epoch, layout: Layout) -> float:
        """Seconds of an epoch's training, of workers that do not slow each other down."""
        return self._pass_s(epoch, "train", layout)

    def _pass_s(self, epoch: Epoch, split: str, layout: Layout) -> float:
        crew: Crew = getattr(epoch, split)
        timing, num_steps = self.timings[crew.key], self.counted.num_steps(crew, split)
        line = timing.step if split == "train" else timing.evaluate
        compute = num_steps * line.at(crew.trials[0].train.batch_size / layout.num_workers)
        loading = self._input_s(epoch, split, layout.num_workers)
        # A GPU computes while the CPU loads; on a CPU the two take turns.
        return max(compute, loading) if layout.gpus_per_worker else compute + loading

    def _input_s(self, epoch: Epoch, split: str, num_workers: int) -> float:
        crew: Crew = getattr(epoch, split)
        reads = (min(self.counted.cost(trial).reads) for trial in crew.trials)
        if crew.known and min(reads) >= min(crew.known):
            return 0.0
        # Shuffled anew, some of a worker's images are in every epoch new to it.
        fresh = ((num_workers - 1) / num_workers if split == "train" else 0.0) ** epoch.number
        return self.counted.num_images[split] / num_workers * (self.input.crop_s + fresh * self.input.decode_s)


def parallel_efficiency(num_workers: int) -> float:
    """The share of its speed alone that each of so many workers has on one machine."""
    return float(EFFICIENCY_OF_TWO ** math.log2(num_workers))
