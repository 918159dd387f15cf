"""Ours beside published numbers, for each data set and as the mean over the five FGVC sets. Pure functions over values.

Only what starts from one checkpoint and follows one protocol is ranked together: such rows make a group, and places are
given within it alone. Where either is unknown nothing is ranked; those rows stand beside.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from statistics import fmean

from pipelines.results.leaderboard import Row
from search_spaces.published import DATASETS, FGVC, FGVC_SETS, UNKNOWN, Published, load_published
from utuning.data.fgvc.table import READERS
from utuning.data.protocols import AS_GIVEN, VAL_FRACTION, VAL_SEED, drawn

OURS = "this store"
BEST = "the best on val in each set"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number: `place` is None where it cannot be ranked; accuracies from 0 to 1."""

    method: str
    accuracy: float
    source: str
    checkpoint: str
    protocol: str
    ours: bool = False
    ci: float | None = None
    params_millions: float | None = None
    notes: tuple[str, ...] = ()
    whole: bool = True
    place: int | None = None

    @property
    def group(self) -> tuple[str, str]:
        """What it may be ranked among: one checkpoint, one protocol."""
        return self.checkpoint, self.protocol

    @property
    def comparable(self) -> bool:
        """Whether enough is known of it to rank it."""
        return self.whole and UNKNOWN not in self.group


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All numbers of one data set, or means over the five: group by group, those with ours first."""

    dataset: str
    entries: tuple[Entry, ...]

    @property
    def groups(self) -> list[tuple[tuple[str, str], list[Entry]]]:
        """The entries by checkpoint and protocol."""
        return [(group, list(entries)) for group, entries in groupby(self.entries, lambda entry: entry.group)]

    @property
    def notes(self) -> dict[str, list[Entry]]:
        """What is to be known of the numbers, and of which ones each is said."""
        noted: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for note in entry.notes:
                noted.setdefault(note, []).append(entry)
        return noted

    @property
    def title(self) -> str:
        """What the numbers are of."""
        return "mean over the five FGVC sets" if self.dataset == FGVC else self.dataset


class Beside:
    """Reads each space's rows once, however many pages show them."""

    def __init__(self, spaces: Callable[[], Sequence[str]], read: Callable[[str], Sequence[Row]]) -> None:
        self._spaces, self.rows = spaces, cache(read)

    def comparisons(self, space: str) -> list[Comparison]:
        """The comparisons of a space's page: none where nothing is published of its data set."""
        found = [name for name in DATASETS if any(row.dataset == name for row in self.rows(space))]
        made = [compare(name, self.rows(space)) for name in found]
        if set(found) & set(FGVC_SETS):
            everything = [row for name in self._spaces() for row in self.rows(name)]
            made += [] if (mean := compare_means(everything)) is None else [mean]
        return made


def compare(dataset: str, rows: Sequence[Row]) -> Comparison:
    """Put the rows of one data set that have a test accuracy beside what is published of it."""
    return _comparison(dataset, [entry for row in rows if row.dataset == dataset and (entry := _entry(row))])


def compare_means(rows: Sequence[Row]) -> Comparison | None:
    """The same for means over the five sets; None where no group has numbers of all five."""
    ours = [(row, entry) for row in rows if row.dataset in FGVC_SETS and (entry := _entry(row)) and entry.comparable]
    means: list[Entry] = []
    for group in dict.fromkeys(entry.group for _, entry in ours):
        here = [(row, entry) for row, entry in ours if entry.group == group]
        names = [BEST, *dict.fromkeys(row.method for row, _ in here)]
        means += [mean for name in names if (mean := _mean(name, here))]
    return _comparison(FGVC, means) if means else None


def checkpoint_of(row: Row) -> str:
    """The weights that a row starts from: timm's name where timm loaded them, else one that no published row has."""
    if row.weights == "timm":
        return row.backbone
    what = {"": "weights not recorded", "none": "random weights"}.get(row.weights, "weights of a file")
    return f"{row.backbone} ({what}, {row.backbone_fingerprint[:12]})"


def _comparison(dataset: str, ours: Sequence[Entry]) -> Comparison:
    theirs = [_published(row) for row in load_published() if row.dataset == dataset]
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in (*sorted(ours, key=_falling), *sorted(theirs, key=_falling)):
        groups.setdefault(entry.group, []).append(entry)
    # Groups with ours come first, and those of which nothing is known last.
    ordered = sorted(groups, key=lambda group: (not any(entry.ours for entry in groups[group]), UNKNOWN in group))
    return Comparison(dataset=dataset, entries=tuple(entry for group in ordered for entry in _ranked(groups[group])))


def _ranked(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Give places to the comparable entries of a group: equal numbers share one."""
    ordered = sorted(entries, key=_falling)
    values = [entry.accuracy for entry in ordered if entry.comparable]
    for entry in ordered:
        yield replace(entry, place=1 + values.index(entry.accuracy)) if entry.comparable else entry


def _falling(entry: Entry) -> tuple[float, bool]:
    return -entry.accuracy, not entry.ours


def _published(row: Published) -> Entry:
    return Entry(
        method=row.method,
        accuracy=row.accuracy,
        source=f"{row.source}, {row.table}",
        checkpoint=row.checkpoint,
        protocol=row.protocol,
        params_millions=row.params_millions,
        notes=row.caveats,
    )


def _entry(row: Row) -> Entry | None:
    if row.test is None:
        return None
    note = _strays(row)
    return Entry(
        method=row.label,
        accuracy=row.test,
        source=OURS,
        checkpoint=checkpoint_of(row),
        protocol=row.protocol,
        ours=True,
        ci=row.test_ci,
        params_millions=None if row.trainable_params is None else row.trainable_params / 1e6,
        notes=(note,) if note else (),
        whole=not note,
    )


def _strays(row: Row) -> str:
    """Why a row is not what its protocol says of the official data set; empty where it is."""
    official = READERS[row.dataset].expected.counts["test"]
    if row.subset:
        return "trained on a part of the data set"
    if row.data_images != AS_GIVEN:
        return f"its images are stored smaller: {row.data_images}"
    if row.test_count != official:
        return f"tested on {row.test_count or 0:,} images, the official test has {official:,}"
    if row.val_from not in (AS_GIVEN, drawn(VAL_FRACTION, VAL_SEED)):
        return f"its val is {row.val_from or 'not recorded'}, which is not the protocol's"
    return ""


def _mean(name: str, ours: Sequence[tuple[Row, Entry]]) -> Entry | None:
    """The mean over the five sets of one method's rows, or of all rows: of each set the one that is best on val."""
    mine = [pair for pair in ours if name in (BEST, pair[0].method)]
    if {row.dataset for row, _ in mine} < set(FGVC_SETS):
        return None
    each = [[pair for pair in mine if pair[0].dataset == dataset] for dataset in FGVC_SETS]
    entries = [max(pairs, key=lambda pair: pair[0].val or 0.0)[1] for pairs in each]
    params = [entry.params_millions for entry in entries if entry.params_millions is not None]
    return replace(
        entries[0],
        method=name if name == BEST else f"{name}, {BEST}",
        accuracy=fmean(entry.accuracy for entry in entries),
        params_millions=fmean(params) if len(params) == len(entries) else None,
        ci=None,
    )
