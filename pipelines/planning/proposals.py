"""First trials for a new data set, from earlier searches' results: pure functions over values.

What did well on data sets whose statistics are alike is proposed first. Accuracies of different data sets do not
compare, places do: a search's best trial counts 1, its worst 0.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import exp, log
from statistics import fmean, pstdev

from search_spaces.domains import Picks, replay
from search_spaces.fitting import Terms, fit, gap
from search_spaces.space import Facts, SearchSpace
from utuning.configs import TrialConfig
from utuning.statistics import DatasetStatistics

MOST_PROPOSALS = 10
NEAREST = 6
"""So many data sets are asked."""
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a backbone's blocks at which statistics are compared: backbones differ in their number of blocks."""
LEAST_SHARE, LEAST_LOG = 0.05, 0.25
"""The least that counts as a standard deviation: two data sets alone would always lie two of them apart."""
PRIOR = 0.5
"""So many results in the middle place are added to what a data set knows of a configuration."""
ALIKE = 0.5
"""Configurations that are more like each other than this do not stand side by side."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One configuration of an earlier search, and its place on that search's leaderboard."""

    trial: TrialConfig
    place: int


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """An earlier search: its data set's statistics, and its results, one or more, from the first place to the last."""

    search_id: str
    statistics: DatasetStatistics
    results: tuple[Result, ...]

    @property
    def seen(self) -> tuple[str, str]:
        """Versions of the data and the backbone that the statistics are of."""
        trial = self.results[0].trial
        return trial.data_fingerprint, trial.backbone_fingerprint


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A configuration to try early: what the space draws for it, its readable name, and why."""

    picks: Picks
    label: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a search begins with: its proposals, and where they come from in words; none if it starts cold."""

    note: str
    proposals: tuple[Proposal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An earlier search as a voter."""

    search: Remembered
    distance: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class _Vote:
    """An earlier result in this space's terms: `trial` is what comes closest to it, `weight` how close that is."""

    source: _Source
    result: Result
    picks: Picks
    trial: TrialConfig
    terms: Terms
    weight: float

    @property
    def score(self) -> float:
        """The place from 1, the first, to 0, the last; who ran alone stands in the middle."""
        last = len(self.source.search.results)
        return 0.5 if last == 1 else 1 - (self.result.place - 1) / (last - 1)


def propose(
    history: Sequence[Remembered], statistics: DatasetStatistics, space: SearchSpace, facts: Facts, count: int
) -> list[Proposal]:
    """At most `count` different configurations that this space allows, the most promising first.

    The same for the same arguments. There are fewer where no more of them did better than the middle; the space's
    baselines are left out, as they are tried anyway.
    """
    votes = _votes(_sources(history, statistics), statistics, space, facts)
    baselines = {trial.config_id for trial in space.baseline_trials(facts)}
    candidates = {vote.trial.config_id: vote for vote in votes if vote.trial.config_id not in baselines}
    like = partial(_likeness, num_blocks=statistics.num_blocks)
    likeness = {key: [like(each, vote) for vote in votes] for key, each in candidates.items()}
    support = {key: _support(votes, alike) for key, alike in likeness.items()}
    promising = [key for key in candidates if support[key] > 0.5]
    ranked = sorted(promising, key=lambda key: (-support[key], candidates[key].trial.label, key))
    return [
        Proposal(picks=vote.picks, label=vote.trial.label, reason=_reason(votes, likeness[vote.trial.config_id]))
        for vote in _unlike_first([candidates[key] for key in ranked], like)[:count]
    ]


def num_proposals(space: SearchSpace) -> int:
    """How many trials are proposed at most: half of them, so that a search still finds what nobody has tried."""
    return min(MOST_PROPOSALS, -(-space.budget.num_trials // 2))


def distances(others: Sequence[DatasetStatistics], statistics: DatasetStatistics) -> list[float]:
    """How far each data set is from this one: the root of the mean squared difference in standard deviations.

    The deviations are those of all these data sets. Each statistic weighs the same, at however many depths it is known.
    """
    known = [_coordinates(each) for each in (*others, statistics)]
    squares: list[list[float]] = [[] for _ in others]
    for name in known[-1]:
        columns = list(zip(*(each[name] for each in known), strict=True))
        least = LEAST_LOG if name.startswith("log") else LEAST_SHARE
        units = [max(pstdev(column), least) for column in columns]
        for at, mine in enumerate(squares):
            pairs = zip(columns, units, strict=True)
            mine.append(fmean(((column[at] - column[-1]) / unit) ** 2 for column, unit in pairs))
    return [fmean(mine) ** 0.5 for mine in squares]


def _coordinates(statistics: DatasetStatistics) -> dict[str, list[float]]:
    rows = [asdict(each) for each in (*map(statistics.at, DEPTHS), statistics.features)]
    return {
        **{name: [row[name] for row in rows] for name in rows[0]},
        "log_num_classes": [log(statistics.num_classes)],
        "log_images_per_class": [log(statistics.images_per_class)],
    }


def _sources(history: Sequence[Remembered], statistics: DatasetStatistics) -> list[_Source]:
    """The searches of the nearest data sets; those of one data set share its weight."""
    apart = distances([search.statistics for search in history], statistics)
    nearest = sorted(zip(apart, history, strict=True), key=lambda pair: (pair[0], pair[1].search_id))
    asked = list(dict.fromkeys(search.seen for _, search in nearest))[:NEAREST]
    times = Counter(search.seen for search in history)
    # In ratio to the nearest one's weight, which may be too small a number for itself.
    least = min(apart, default=0.0) ** 2
    return [
        _Source(search=search, distance=distance, weight=exp(least - distance**2) / times[search.seen])
        for distance, search in nearest
        if search.seen in asked
    ]


def _votes(sources: Iterable[_Source], statistics: DatasetStatistics, space: SearchSpace, facts: Facts) -> list[_Vote]:
    found = []
    for source in sources:
        blocks = statistics.num_blocks, source.search.statistics.num_blocks
        for result in source.search.results:
            if (picks := fit(space, result.trial, blocks)) is None:
                continue
            trial = space.seeded(replay(picks), facts)[0]
            terms = Terms.of(trial)
            weight = exp(-gap(terms, Terms.of(result.trial), blocks))
            found.append(_Vote(source=source, result=result, picks=picks, trial=trial, terms=terms, weight=weight))
    return found


def _likeness(first: _Vote, second: _Vote, num_blocks: int) -> float:
    """From 0, other methods, to 1, the same configuration."""
    return exp(-gap(first.terms, second.terms, (num_blocks, num_blocks)))


def _support(votes: Sequence[_Vote], likeness: Sequence[float]) -> float:
    """What the sources think of a configuration, weighted: 1 if it did best everywhere, 0.5 if nothing is known."""
    score: defaultdict[str, float] = defaultdict(float)
    weight: defaultdict[str, float] = defaultdict(float)
    source_weight: dict[str, float] = {}
    for vote, alike in zip(votes, likeness, strict=True):
        key = vote.source.search.search_id
        source_weight[key] = vote.source.weight
        score[key] += alike * vote.weight * vote.score
        weight[key] += alike * vote.weight
    means = {key: (score[key] + PRIOR * 0.5) / (weight[key] + PRIOR) for key in source_weight}
    return sum(source_weight[key] * means[key] for key in means) / sum(source_weight.values())


def _unlike_first(ranked: Sequence[_Vote], like: Callable[[_Vote, _Vote], float]) -> list[_Vote]:
    """The same, those later that are nearly the same as one before."""
    first: list[_Vote] = []
    later: list[_Vote] = []
    for vote in ranked:
        near = any(like(vote, other) > ALIKE for other in first)
        (later if near else first).append(vote)
    return first + later


def _reason(votes: Sequence[_Vote], likeness: Sequence[float]) -> str:
    """The earlier result that speaks most for a configuration, in words."""
    weights = [vote.source.weight * vote.weight * alike for vote, alike in zip(votes, likeness, strict=True)]
    best = max(range(len(votes)), key=lambda at: (weights[at] * votes[at].score, -at))
    source, result = votes[best].source, votes[best].result
    place = f"{ordinal(result.place)} of {len(source.search.results)}"
    return f"like {result.trial.dataset} (distance {source.distance:.2f}): {result.trial.label} was {place}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, …"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
