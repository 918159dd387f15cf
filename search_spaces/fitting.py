"""The way back from a trial of any space to a space: what this one would draw to come closest to it.

Differences are counted in units: a factor of two between numbers is one, another value that is no number is one, and
blocks are counted as a share of the backbone. Tuning methods do not stand for each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import inf, log2
from typing import Any

from search_spaces.domains import Choice, Domain, Interval, Picks, draw, is_domain, parse_domain, varies
from search_spaces.space import SearchSpace
from utuning.configs import Depths, TrialConfig, TunerConfig
from utuning.errors import PlacementError
from utuning.placement import resolve_depths
from utuning.tuners import TUNERS, settings_of

Blocks = tuple[int, int]
"""Numbers of blocks of two trials' backbones: depths are compared at their share of them."""


def fit(space: SearchSpace, trial: TrialConfig, blocks: Blocks) -> Picks | None:
    """What draws the space's configuration that is closest to a trial, by path; None if none has the trial's methods.

    `blocks` are those of the space's backbone and of the trial's.
    """
    if any(tuner.method not in TUNERS for tuner in trial.tuners):
        return None
    values = {"train": trial.as_dict()["train"], "tuners": [_as_written(tuner) for tuner in trial.tuners]}
    found = _Fitting(blocks).node(space.template, {**values, "families": values}, "", "")
    if found.gap == inf:
        return None
    picks: dict[str, Any] = {}

    def complete(where: str, domain: Domain) -> Any:
        first = 0 if isinstance(domain, Choice) else domain.low
        picks[where] = found.picks.get(where, first)
        return picks[where]

    draw(space.template, complete)
    return picks


@dataclass(frozen=True)
class Terms:
    """What trials are compared by: their methods, and tuners and learning rate as flat values."""

    methods: tuple[str, ...]
    values: Mapping[tuple[int, str], Any]

    @classmethod
    def of(cls, trial: TrialConfig) -> "Terms":
        """How long a trial trains, and on what, is no part of it."""
        tuners = [_as_written(tuner) for tuner in trial.tuners]
        values = {(at, key): value for at, tuner in enumerate(tuners) for key, value in tuner.items()}
        return cls(tuple(tuner.method for tuner in trial.tuners), {(-1, "lr"): trial.train.lr, **values})


def gap(first: Terms, second: Terms, blocks: Blocks) -> float:
    """Units of difference between two trials; infinite between other methods."""
    if first.methods != second.methods:
        return inf
    # Equal methods have equal settings, so the keys are the same; sorted, as sums of floats depend on their order.
    keys = sorted(first.values.keys() | second.values.keys())
    return sum(value_gap(key[1], first.values.get(key), second.values.get(key), blocks) for key in keys)


def value_gap(key: str, ours: Any, theirs: Any, blocks: Blocks) -> float:
    """Units of difference between two values of a key."""
    if (ours == theirs or _plain(ours) == _plain(theirs)) and (key != "depths" or blocks[0] == blocks[1]):
        return 0.0
    if key == "method":
        return inf
    if key == "depths":
        return _depths_gap(ours, theirs, blocks)
    if _is_number(ours) and _is_number(theirs) and ours > 0 and theirs > 0:
        return abs(log2(ours / theirs))
    return 1.0


@dataclass(frozen=True)
class _Fit:
    picks: Picks = field(default_factory=dict)
    gap: float = 0.0

    def __add__(self, other: "_Fit") -> "_Fit":
        return _Fit({**self.picks, **other.picks}, self.gap + other.gap)


@dataclass(frozen=True)
class _Fitting:
    """Walks a template and a trial's values together; `key` is the last name on the way, without places of lists."""

    blocks: Blocks

    def node(self, node: Any, given: Any, where: str, key: str) -> _Fit:
        if is_domain(node):
            return self._domain(node, given, where, key)
        if isinstance(node, Mapping):
            known = given if isinstance(given, Mapping) else {}
            # Of training's fixed values the rate alone tells trials apart: the others are the whole search's.
            fixed = {name for name in node if key == "train" and name != "lr" and not is_domain(node[name])}
            names = [name for name in node if name in known and name not in fixed]
            return sum((self.node(node[name], known[name], _join(where, name), name) for name in names), _Fit())
        if isinstance(node, list) and key != "depths":
            if not isinstance(given, list) or len(given) != len(node):
                return _Fit(gap=inf if key == "tuners" else 1.0)
            pairs = enumerate(zip(node, given, strict=True))
            return sum((self.node(one, other, _join(where, at), key) for at, (one, other) in pairs), _Fit())
        return _Fit(gap=value_gap(key, node, given, self.blocks))

    def _domain(self, node: Mapping[str, Any], given: Any, where: str, key: str) -> _Fit:
        domain = parse_domain(node, where)
        if isinstance(domain, Interval):
            value = _clipped(domain, given)
            return _Fit({where: value}, value_gap(key, value, given, self.blocks))
        found = [self.node(value, given, _join(where, at), key) for at, value in enumerate(domain.values)]
        place = min(range(len(found)), key=lambda at: found[at].gap)
        return (_Fit({where: place}) if varies(domain) else _Fit()) + found[place]


def _clipped(domain: Interval, given: Any) -> float:
    if not _is_number(given):
        return domain.low
    value = min(max(given, domain.low), domain.high)
    return round(value) if domain.kind == "randint" else float(value)


def _as_written(tuner: TunerConfig) -> dict[str, Any]:
    """A tuner as a space writes it, with the defaults of its settings."""
    written = {"method": tuner.method, "ops": list(tuner.ops), "depths": tuner.depths}
    return {**written, **_defaults(tuner.method), **tuner.settings}


@cache
def _defaults(method: str) -> dict[str, Any]:
    return {name: setting.default for name, setting in settings_of(method).items()}


def _depths_gap(ours: Any, theirs: Any, blocks: Blocks) -> float:
    """Share of the blocks that one placement has and the other has not, both backbones drawn to the same height."""
    try:
        first, second = _covered(_hashable(ours), *blocks), _covered(_hashable(theirs), *reversed(blocks))
    except PlacementError:
        return 1.0
    return len(first ^ second) / (blocks[0] * blocks[1])


@cache
def _covered(depths: Depths | None, num_blocks: int, slices: int) -> frozenset[int]:
    """The blocks of a placement, each cut into so many slices."""
    chosen = resolve_depths("all" if depths is None else depths, num_blocks)
    return frozenset(block * slices + piece for block in chosen for piece in range(slices))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hashable(depths: Any) -> Depths | None:
    return tuple(depths) if isinstance(depths, list) else depths


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
