"""What training together saves, step by step and without Ray: each ratio beside the one that a count of FLOPs allows.

    python benchmarks/cohorts.py [--rounds 7]

Everything runs in one process with one thread, but for the two workers of the last row. What is compared takes its
steps in turns, and a ratio is that of the medians. Writes docs/results/cohorts/steps.{md,json}.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from result_file import table_row, write_result
from timing import in_turns
from torch import nn

from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TrainConfig, TunerConfig
from utuning.costs import step_flops
from utuning.member import Member
from utuning.prefix import Prefix, state_shapes
from utuning.prefix_cache import PrefixCache

RESULT = Path(__file__).parent.parent / "docs" / "results" / "cohorts"
NUM_CLASSES, BATCH_SIZE, EPOCHS = 100, 32, 4
LARGE_ROUNDS = 2  # a step of 24 trials takes minutes there
CONFIG = TrainConfig(lr=1e-3, epochs=1, batch_size=BATCH_SIZE, warmup_epochs=0.0)
SIDES = ("unipt", "ladder", "bypass")
PAGE = """# Training together, step by step

`python benchmarks/cohorts.py`: a ViT-Ti/16 of twelve blocks at 96 px (37 tokens) with random weights, batch 32, fp32,
one CPU thread, unless a row says otherwise; medians of {rounds} steps of each side, taken in turns (of {large_rounds}
with ViT-B). Allowed is the ratio of FLOPs, counted. Machine, commit and versions stand in [steps.json](steps.json).

| what | measured | allowed by FLOPs | bar |
|---|---:|---:|---:|"""


@dataclass(frozen=True)
class Scene:
    """What is trained on: a backbone, a batch, and what a row's title says of them."""

    frozen: Backbone
    data: Batch
    title: str = ""


@dataclass(frozen=True)
class Ratio:
    """One line of the table."""

    what: str
    measured: float
    allowed: float | None
    bar: str

    def line(self) -> str:
        """As Markdown."""
        allowed = "" if self.allowed is None else f"{self.allowed:.2f}"
        return table_row(self.what, f"{self.measured:.2f}", allowed, self.bar)


def backbone() -> Backbone:
    """A plain ViT of twelve blocks."""
    return Backbone.load("vit_tiny_patch16_224", weights="none", img_size=96)


def small_scene() -> Scene:
    """A step short enough that what is not arithmetic shows."""
    return Scene(backbone(), batch())


def large_scene() -> Scene:
    """The backbone of most published results."""
    frozen = Backbone.load("vit_base_patch16_224", weights="none")
    return Scene(frozen, batch(size=4, img_size=224), ", ViT-B/16 at 224 px, batch 4")


def batch(seed: int = 0, size: int = BATCH_SIZE, img_size: int = 96) -> Batch:
    """Noise: what is measured does not depend on what the images show."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        images=torch.randint(0, 256, (size, 3, img_size, img_size), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, NUM_CLASSES, (size,), generator=generator),
        weight=torch.ones(size),
        index=torch.arange(size),
    )


def member(frozen: Backbone, *tuners: TunerConfig, seed: int = 0) -> Member:
    """A member with these tuners."""
    config = TrainConfig(**{**asdict(CONFIG), "seed": seed})
    return Member(frozen, num_classes=NUM_CLASSES, config=config, tuners=tuners, steps_per_epoch=1000)


def adapter(depths: str) -> TunerConfig:
    """A P-Adapter beside attention and MLP."""
    return TunerConfig(method="p_adapter", ops=("attn", "mlp"), depths=depths, settings={"bottleneck_dim": 16})


def stepping(frozen: Backbone, members: Sequence[Member], data: Batch) -> Callable[[], object]:
    """A cohort's step."""
    cohort = Cohort(frozen, members)
    return lambda: cohort.step(data)


def one_by_one(frozen: Backbone, members: Sequence[Member], data: Batch) -> Callable[[], object]:
    """The steps of as many solo cohorts."""
    cohorts = [Cohort(frozen, [each]) for each in members]
    return lambda: [cohort.step(data) for cohort in cohorts]


def known_states(
    scene: Scene, members: Sequence[Member], folder: Path
) -> tuple[Callable[[], Batch], Callable[[], Batch]]:
    """As a loader does: a batch whose states are read from the cache on disk, and one whose states are kept there."""
    frozen, data = scene.frozen, scene.data
    cache, shapes = PrefixCache(folder, 10**9), state_shapes(frozen)
    prefix = Prefix(cache, shapes, num_rows=len(data.index), num_views=1, dtype=torch.float32, facts={"data": "noise"})
    useful = prefix.useful(frozen, members, 10**9)
    assert useful is not None

    def wanting() -> Batch:
        keep = {"wanted": useful.depths, "remember": lambda found: useful.write(data.index, found, 0)}
        return Batch(**{**vars(data), **keep})

    Cohort(frozen, list(members)).evaluate([wanting()])

    def read() -> Batch:
        states = useful.read(data.index, 0)
        assert states is not None
        return Batch(**{**vars(data), "images": None, "states": states})

    return read, wanting


def warm_trial(scene: Scene, rounds: int, folder: Path, title: str, *tuners: TunerConfig) -> Ratio:
    """A trial's step on cached states to the same trial's where nothing is cached yet."""
    cold, warm = (member(scene.frozen, *tuners) for _ in range(2))
    read, wanting = known_states(scene, [warm], folder)
    cohorts = [Cohort(scene.frozen, [each]) for each in (cold, warm)]
    seconds = in_turns(rounds, lambda: cohorts[0].step(wanting()), lambda: cohorts[1].step(read()))
    flops = step_flops(scene.frozen, [cold]) / step_flops(scene.frozen, [warm], cached=True)
    return Ratio(f"{title}, cold to warm cache", seconds[0] / seconds[1], flops, "≥3")


def adapters_with_cache(scene: Scene, rounds: int, folder: Path) -> Ratio:
    """24 adapter trials over the last one to four blocks."""
    frozen, tuners = scene.frozen, [adapter(f"last:{1 + number % 4}") for number in range(24)]
    together, alone = ([member(frozen, each, seed=n) for n, each in enumerate(tuners)] for _ in range(2))
    read, _ = known_states(scene, together, folder)
    cohort = Cohort(frozen, together)
    fused, solo = in_turns(rounds, lambda: cohort.step(read()), one_by_one(frozen, alone, scene.data))
    flops = sum(step_flops(frozen, [each]) for each in alone) / step_flops(frozen, together, cached=True)
    title = f"24 adapters over last:1 to last:4, cohort with cache to solo without{scene.title}"
    return Ratio(title, solo / fused, flops, "≥3.2")


def sides_with_cache(scene: Scene, rounds: int, folder: Path) -> Ratio:
    """Four epochs of one view with 8 side networks and 8 linear heads: the cohort computes the states in the first."""
    frozen = scene.frozen
    tuners = [[TunerConfig(method=SIDES[number % 3])] if number < 8 else [] for number in range(16)]
    together, alone = ([member(frozen, *each, seed=n) for n, each in enumerate(tuners)] for _ in range(2))
    read, wanting = known_states(scene, together, folder)
    cohort = Cohort(frozen, together)
    cold, warm, solo = in_turns(
        rounds, lambda: cohort.step(wanting()), lambda: cohort.step(read()), one_by_one(frozen, alone, scene.data)
    )
    counted_cold, counted_warm = (step_flops(frozen, together, cached=cached) for cached in (False, True))
    counted_solo = sum(step_flops(frozen, [each]) for each in alone)
    title = f"four epochs of 8 side networks and 8 linear heads, cohort with cache to solo without{scene.title}"
    flops = EPOCHS * counted_solo / (counted_cold + (EPOCHS - 1) * counted_warm)
    return Ratio(title, EPOCHS * solo / (cold + (EPOCHS - 1) * warm), flops, "")


def one_more_side(scene: Scene, rounds: int) -> Ratio:
    """One more side network in a warm cohort, as a share of a solo trial."""
    frozen, data = scene.frozen, scene.data
    tuners = [TunerConfig(method=SIDES[number % 3], settings={}) for number in range(9)]
    many = [member(frozen, each, seed=n) for n, each in enumerate(tuners)]
    fewer = [member(frozen, each, seed=n) for n, each in enumerate(tuners[:6])]
    alone = [member(frozen, each) for each in tuners[:3]]
    with_it, without, solo = in_turns(
        rounds, stepping(frozen, many, data), stepping(frozen, fewer, data), one_by_one(frozen, alone, data)
    )
    counted = (step_flops(frozen, many) - step_flops(frozen, fewer)) / sum(step_flops(frozen, [a]) for a in alone)
    title = f"one more side network, as a share of a solo one{scene.title}"
    return Ratio(title, (with_it - without) / solo, counted, "≤0.15")


def all_layers(scene: Scene, rounds: int, bar: str = "≥1.0") -> Ratio:
    """8 members with adapters in all blocks: nothing to share, but fewer and larger products."""
    frozen, data = scene.frozen, scene.data
    together, alone = ([member(frozen, adapter("all"), seed=n) for n in range(8)] for _ in range(2))
    fused, solo = in_turns(rounds, stepping(frozen, together, data), one_by_one(frozen, alone, data))
    flops = sum(step_flops(frozen, [each]) for each in alone) / step_flops(frozen, together)
    return Ratio(f"8 adapters in all blocks, together to solo{scene.title}", solo / fused, flops, bar)


class HandWritten(nn.Module):
    """timm and adapters as one would write them by hand: the measure of the engine's own cost."""

    def __init__(self, frozen: Backbone, source: Member) -> None:
        super().__init__()
        self.model = [frozen.trunk.model]  # in a list: its weights are not this module's
        self.tuners = source.parts["tuners"]["p_adapter"]
        self.head = source.parts["head"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        model = self.model[0]
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        for depth, block in enumerate(model.blocks):
            attended = block.ls1(block.attn(block.norm1(x)))
            x = x + attended + self.tuners["attn"][str(depth)](x, attended)
            mixed = block.ls2(block.mlp(block.norm2(x)))
            x = x + mixed + self.tuners["mlp"][str(depth)](x, mixed)
        scores: torch.Tensor = self.head(model.norm(x)[:, 0])
        return scores


def by_hand(frozen: Backbone, rounds: int) -> Ratio:
    """A solo step to the same step written by hand."""
    data, loop = batch(), HandWritten(frozen, member(frozen, adapter("all")))
    optimiser = torch.optim.AdamW(loop.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss = nn.functional.cross_entropy(loop(frozen.normalise(data.pixels)), data.labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    solo = member(frozen, adapter("all"))
    solo.reads_all_tokens = True  # by hand, the last block computes every token too
    mine, theirs = in_turns(rounds, stepping(frozen, [solo], data), step)
    return Ratio("a solo step's time to a hand-written loop's", mine / theirs, 1.0, "≤1.03")


def two_workers(rounds: int) -> Ratio:
    """Two workers of one thread to one, for equal global batches."""
    with tempfile.TemporaryDirectory() as folder:
        context = processes.get_context("spawn")
        seconds = {}
        for count in (1, 2):
            queue = context.SimpleQueue()
            running = [
                context.Process(target=_worker, args=(worker, count, rounds, f"{folder}/{count}", queue))
                for worker in range(count)
            ]
            for each in running:
                each.start()
            seconds[count] = max(queue.get() for _ in running)
            for each in running:
                each.join()
    return Ratio("2 workers of one thread to 1, equal global batch", seconds[1] / seconds[2], 2.0, "≥1.7")


def _worker(worker: int, count: int, rounds: int, meeting: str, queue: "processes.SimpleQueue[float]") -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=worker, world_size=count)
    frozen = backbone()
    members = [
        member(frozen, adapter(depths), seed=n) for n, depths in enumerate(("all", "last:4", "last:1", "last:2"))
    ]
    cohort = Cohort(frozen, members, reduce=dist.all_reduce, worker=worker, num_workers=count)
    data = batch(worker, BATCH_SIZE // count)
    dist.barrier()
    queue.put(in_turns(rounds, lambda: cohort.step(data))[0])
    dist.destroy_process_group()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    small, unipt = small_scene(), TunerConfig(method="unipt")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ratios = [
            adapters_with_cache(small, rounds, place / "adapters"),
            sides_with_cache(small, rounds, place / "sides"),
            one_more_side(small, rounds),
            warm_trial(small, rounds, place / "linear", "a linear probe's step"),
            warm_trial(small, rounds, place / "side", "a UniPT step", unipt),
            all_layers(small, rounds),
            by_hand(small.frozen, rounds),
            two_workers(rounds),
        ]
        large = large_scene()
        ratios += [
            adapters_with_cache(large, LARGE_ROUNDS, place / "large-adapters"),
            sides_with_cache(large, LARGE_ROUNDS, place / "large-sides"),
            one_more_side(large, LARGE_ROUNDS),
        ]
    for ratio in ratios:
        print(ratio.line(), flush=True)
    page = "\n".join([PAGE.format(rounds=rounds, large_rounds=LARGE_ROUNDS), *(ratio.line() for ratio in ratios), ""])
    values = {"rounds": rounds, "rows": [asdict(ratio) for ratio in ratios]}
    write_result(RESULT / "steps.json", "python benchmarks/cohorts.py", page, **values)


if __name__ == "__main__":
    main()
