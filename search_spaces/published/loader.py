"""Reads published numbers, and checks them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from search_spaces.checking import Problems
from search_spaces.reading import read_yaml

HERE = Path(__file__).parent
FGVC = "fgvc"
"""The name under which means over the five sets stand."""
FGVC_SETS = ("cub200", "nabirds", "flowers102", "stanford_dogs", "stanford_cars")
DATASETS = (*FGVC_SETS, "cifar100")
UNKNOWN = "unknown"
Protocol = Literal["vpt", "trainval-final", "official", "test-selected", "unknown"]
"""The named protocols of `utuning.data.protocols`; `test-selected` picks the epoch on test, which none of them does."""
Params = Literal["with head", "without head", "mixed", "not stated"]
MEAN_TOLERANCE = 0.05
"""Percentage points by which a printed mean may differ from that of its row: it is of numbers before rounding."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number.

    Attributes:
        method: its name in the source.
        dataset: one of `DATASETS`, or `FGVC` for the mean over the five sets.
        accuracy: top-1 on test, from 0 to 1.
        source: who says so, and where.
        table: which table.
        checkpoint: timm's name of the backbone's weights, or `unknown`.
        protocol: what it is trained, selected and tested on, or `unknown`.
        caveats: what else to know before comparing with it, of the row and of its table.
        params_millions: parameters that are stored a task; `params` says what they count.
    """

    method: str
    dataset: str
    accuracy: float
    source: str
    table: str
    checkpoint: str
    protocol: Protocol
    caveats: tuple[str, ...] = ()
    params_millions: float | None = None
    params: Params = "not stated"


@dataclass(frozen=True, kw_only=True)
class _Source:
    source: str
    tables: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class _Table:
    table: str
    datasets: tuple[str, ...]
    checkpoint: str
    protocol: Protocol
    params: Params
    rows: tuple[Any, ...]
    caveat: str = ""


@dataclass(frozen=True, kw_only=True)
class _Row:
    method: str
    accuracy: tuple[float, ...]
    mean: float | None = None
    params_millions: float | None = None
    caveat: str = ""


@cache
def load_published() -> tuple[Published, ...]:
    """All published numbers that come with the project.

    Raises:
        SpaceError: a file that says what cannot be; all problems of a file at once.
    """
    return tuple(row for file in sorted(HERE.glob("*.yaml")) for row in check_source(read_yaml(file), file.name))


def check_source(raw: Any, title: str) -> list[Published]:
    """Turn one file's plain values into rows.

    Raises:
        SpaceError: values that cannot be used; all problems at once.
    """
    problems = Problems()
    source = problems.build(_Source, raw, "")
    rows = list(_rows(problems, source)) if source else []
    if not rows and not problems.found:
        problems.add("tables: no number in them; leave the file out, or give a row")
    problems.check(title)
    return rows


def _rows(problems: Problems, source: _Source) -> Iterator[Published]:
    for place, raw in enumerate(source.tables):
        where = f"tables.{place}"
        table = problems.build(_Table, raw, where)
        if table is None:
            continue
        for dataset in table.datasets:
            if dataset not in (*DATASETS, FGVC):
                problems.add(f"{where}.datasets: {dataset!r}; allowed: {', '.join((*DATASETS, FGVC))}")
        for number, values in enumerate(table.rows):
            row = problems.build(_Row, values, f"{where}.rows.{number}")
            if row is not None and _fits(problems, table, row, f"{where}.rows.{number}"):
                yield from _numbers(source, table, row)


def _fits(problems: Problems, table: _Table, row: _Row, where: str) -> bool:
    known = len(problems.found)
    if len(row.accuracy) != len(table.datasets):
        problems.add(f"{where}.accuracy: {len(row.accuracy)} numbers for {len(table.datasets)} data sets")
    if not all(1 < value < 100 for value in row.accuracy):
        problems.add(f"{where}.accuracy: {list(row.accuracy)}; per cent, above 1 and below 100")
    five = _five(table, row)
    if row.mean is not None and (five is None or abs(fmean(five) - row.mean) > MEAN_TOLERANCE):
        found = "not all five sets are there" if five is None else f"that of the row is {fmean(five):.2f}"
        problems.add(f"{where}.mean: {row.mean}; {found}: is a column in another place?")
    return len(problems.found) == known


def _numbers(source: _Source, table: _Table, row: _Row) -> Iterator[Published]:
    five = _five(table, row)
    found: Mapping[str, float] = dict(zip(table.datasets, row.accuracy, strict=True))
    if five is not None and FGVC not in found:
        found = {**found, FGVC: fmean(five) if row.mean is None else row.mean}
    for dataset, accuracy in found.items():
        yield Published(
            method=row.method,
            dataset=dataset,
            accuracy=round(accuracy / 100, 6),
            source=source.source,
            table=table.table,
            checkpoint=table.checkpoint,
            protocol=table.protocol,
            caveats=tuple(text for text in (row.caveat, table.caveat) if text),
            params_millions=row.params_millions,
            params=table.params,
        )


def _five(table: _Table, row: _Row) -> list[float] | None:
    """The row's numbers of the five sets, if it has all of them."""
    found = dict(zip(table.datasets, row.accuracy, strict=False))
    return [found[name] for name in FGVC_SETS] if set(FGVC_SETS) <= found.keys() else None
