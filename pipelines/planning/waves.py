"""How a search's trials fall into waves: members that train together, epoch by epoch, one wave after another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest

from utuning.configs import TrialConfig, digest

Depths = frozenset[int]
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Wave:
    """Trials that begin together, in one cohort."""

    trials: tuple[TrialConfig, ...]

    @property
    def cohort_key(self) -> str:
        """The same for waves that may follow each other in one cohort."""
        return self.trials[0].cohort_key

    @property
    def num_epochs(self) -> int:
        """Epochs of its longest trial."""
        return max(trial.train.epochs for trial in self.trials)

    def training(self, epoch: int) -> tuple[TrialConfig, ...]:
        """Those that train in an epoch, from 0 on."""
        return tuple(trial for trial in self.trials if trial.train.epochs > epoch)


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Members that take a step together, where the `known` states of the frozen network are not computed."""

    trials: tuple[TrialConfig, ...]
    known: Depths = frozenset()

    @property
    def key(self) -> str:
        """The same for crews whose steps cost the same."""
        return digest({"members": sorted(map(structure, self.trials)), "known": sorted(self.known)})


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a wave, from 0 on: a pass over train, then one over val."""

    number: int
    train: Crew
    val: Crew


def structure(trial: TrialConfig) -> str:
    """The same for trials that cost the same; learning rates and seeds change no shape."""
    tuners = [asdict(tuner) for tuner in trial.tuners]
    return digest({"tuners": tuners, "num_classes": trial.num_classes, "drop_path": trial.train.drop_path > 0})


def make_waves(trials: Sequence[TrialConfig], max_members: int, *, isolated: bool = False) -> list[Wave]:
    """Every trial in one wave, of its own cohort key and at most so many members; isolated ones stand alone."""
    if isolated:
        return [Wave(trials=(trial,)) for trial in trials]
    keys: dict[str, list[TrialConfig]] = {}
    for trial in trials:
        keys.setdefault(trial.cohort_key, []).append(trial)
    return [
        Wave(trials=tuple(same[at : at + max_members]))
        for same in keys.values()
        for at in range(0, len(same), max_members)
    ]


def choose_members(trials: Sequence[TrialConfig], needs: Mapping[str, float], room: float, most: int) -> int:
    """The most members a cohort may have so that it fits into `room`; one if even that is too many.

    A seat is taken again as soon as it is free, so the largest trials of a key may meet. `needs` are bytes by trial id.
    """
    keys: dict[str, list[float]] = {}
    for trial in trials:
        keys.setdefault(trial.cohort_key, []).append(needs[trial.trial_id])

    def fits(size: int) -> bool:
        return all(sum(nlargest(size, same)) <= room for same in keys.values())

    return next(filter(fits, range(most, 1, -1)), 1)


def make_epochs(waves: Sequence[Wave], cacheable: Callable[[Wave], tuple[Depths, Depths]]) -> list[list[Epoch]]:
    """The epochs of each wave, with what is known in each: states of a view that it, or an earlier wave, has visited.

    `cacheable` gives the states of train and of val that a wave can keep.
    """
    seen: list[tuple[str, Depths, int]] = []
    found: list[list[Epoch]] = []
    for wave in waves:
        kept = dict(zip(SPLITS, cacheable(wave), strict=True))
        before = {split: _views_seen(_drawn(wave, split), depths, seen) for split, depths in kept.items()}
        found.append(list(_epochs(wave, kept, before)))
        seen += [(_drawn(wave, split), depths, wave.num_epochs) for split, depths in kept.items()]
    return found


def makespan(waves_s: Sequence[float], start_s: float, slots: int, *, isolated: bool = False) -> float:
    """Seconds until waves of so many seconds are done in so many slots, each taken when it is free.

    A slot starts one worker group, which takes `start_s`, and keeps it; isolated waves have a group each.
    """
    free = [0.0 if isolated else start_s] * slots
    for seconds in waves_s:
        free[free.index(min(free))] += seconds + (start_s if isolated else 0.0)
    return max(free)


def _epochs(wave: Wave, kept: Mapping[str, Depths], before: Mapping[str, int]) -> Iterator[Epoch]:
    views = wave.trials[0].views
    num_views = {"train": 0 if views == "online" else views, "val": 1}
    for number in range(wave.num_epochs):
        crews = {
            split: Crew(
                trials=wave.training(number),
                known=depths if number >= num_views[split] or number < before[split] else frozenset(),
            )
            for split, depths in kept.items()
        }
        yield Epoch(number=number, train=crews["train"], val=crews["val"])


def _views_seen(drawn: str, depths: Depths, seen: Sequence[tuple[str, Depths, int]]) -> int:
    """How many views, from the first one on, earlier waves have visited and kept these states of."""
    return max((views for other, kept, views in seen if other == drawn and depths <= kept), default=0)


def _drawn(wave: Wave, split: str) -> str:
    """The same for waves that see the same crops of a split."""
    return f"{wave.cohort_key} {split}"
