"""Two rows of a leaderboard, compared in pairs: who they are, what their finals answered, and the page."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipelines.results.answers import FOLDER, Answers
from pipelines.results.leaderboard import Row
from pipelines.results.paired import Comparison, Estimate, compared
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from utuning.errors import TrackingError, nearest

MIN_ID = 4
"""How many digits of a configuration's id name it."""


def find_row(rows: Sequence[Row], name: str) -> Row:
    """Find a row by `champion`, its place, its label, the beginning of its id, or its method where that is one row's.

    Raises:
        TrackingError: no row is called that, or several.
    """
    ways = (
        [row for row in rows if name == "champion" and row.champion],
        [row for row in rows if name.isdecimal() and row.place == int(name)],
        [row for row in rows if name in (row.label, row.config_id)],
        [row for row in rows if len(name) >= MIN_ID and row.config_id.startswith(name)],
        [row for row in rows if row.method == name],
    )
    found = next((way for way in ways if way), [])
    placed = [row for row in found if row.place] or found
    if len(placed) == 1:
        return placed[0]
    if found:
        listed = ", ".join(f"{row.label!r} ({row.config_id})" for row in found[:5])
        raise TrackingError(f"{name!r} are {len(found)} configurations: {listed}; give one's label or id")
    known = [name for row in rows for name in (row.label, row.method)]
    raise TrackingError(
        f"no configuration is {name!r}; {nearest(name, known)}; or champion, a place such as 1, or a configuration's id"
    )


def compare_rows(tracker: Tracker, runs: Iterable[RunRecord], a: Row, b: Row) -> Comparison:
    """Compare what two rows measured on test, over the seeds that they have in common.

    Args:
        tracker: where the answers are kept.
        runs: those that the rows are of.
        a: one row.
        b: the other.

    Raises:
        TrackingError: they were not measured on the same images in the same way, or share no seed.
    """
    _check_comparable(a, b)
    of_a, of_b = (dict(zip(row.test_seeds, row.test_run_ids, strict=True)) for row in (a, b))
    seeds = sorted(of_a.keys() & of_b.keys())
    if not seeds:
        raise TrackingError(
            f"{a.label!r} was measured on test with seeds {_listed(a)}, {b.label!r} with {_listed(b)}: there is no "
            "common one; name the same seeds in finals.seeds, and search again"
        )
    accuracy = {run.run_id: run.metrics["test/accuracy"] for run in runs if "test/accuracy" in run.metrics}
    both = {seed: _both(tracker, (of_a[seed], of_b[seed]), a.data_fingerprint) for seed in seeds}
    answers = {seed: found for seed, found in both.items() if found is not None}
    return compared({seed: (accuracy[of_a[seed]], accuracy[of_b[seed]]) for seed in seeds}, answers)


def as_values(a: Row, b: Row, found: Comparison) -> dict[str, Any]:
    """The comparison as plain values for JSON."""
    names = {"a": a, "b": b}
    rows = {key: {"label": row.label, "config_id": row.config_id, "test": row.test} for key, row in names.items()}
    return {**rows, "protocol": a.protocol, "mean": found.mean, **asdict(found), "verdict": found.verdict}


def show(a: Row, b: Row, found: Comparison, console: Console) -> None:
    """Print the comparison, in points of test accuracy."""
    for line in _lines(a, b, found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(a: Row, b: Row, found: Comparison) -> list[str]:
    seeds = f"seeds {', '.join(map(str, found.seeds))}"
    lines = [f"{name}  {row.label}: test {_percent(row)} (seeds {_listed(row)})" for name, row in (("A", a), ("B", b))]
    lines.append(f"A - B  {100 * found.mean:+.2f} points over {seeds}; protocol {a.protocol}")
    if found.over_seeds is not None:
        test = f"paired t over {len(found.seeds)} seeds, images fixed"
        lines.append(f"  seeds   {_interval(found.over_seeds)}, p = {found.over_seeds.p:.2g} ({test})")
    if found.over_images is not None:
        test = f"paired bootstrap over {found.num_images:,} images, seeds fixed"
        lines.append(f"  images  {_interval(found.over_images)} ({test})")
    for seed, each in found.per_seed.items():
        text = f"{each.only_a} images right by A alone, {each.only_b} by B alone, p = {each.p:.2g}"
        lines.append(f"  seed {seed}  {text} (McNemar, exact)")
    return [*lines, found.verdict]


def _check_comparable(a: Row, b: Row) -> None:
    for row in (a, b):
        if not row.test_run_ids:
            raise TrackingError(
                f"{row.label!r} was not measured on test: the best configuration and the baselines are; make it a "
                "baseline of the space, and search again"
            )
    if a.config_id == b.config_id:
        raise TrackingError(f"both are {a.label!r}; name two configurations")
    pairs = {
        "data version": (a.data_fingerprint, b.data_fingerprint),
        "protocol": (a.protocol, b.protocol),
        "splits trained on": ("+".join(a.test_from), "+".join(b.test_from)),
    }
    for name, (one, other) in pairs.items():
        if one != other:
            raise TrackingError(
                f"the {name} of A is {one!r}, of B {other!r}: their test accuracies cannot be compared; search both "
                "in the same way"
            )


def _both(tracker: Tracker, run_ids: Sequence[str], data_fingerprint: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What both runs answered; None where one was measured before answers were kept."""
    if not all(tracker.artifacts.has(run_id, FOLDER) for run_id in run_ids):
        return None
    with tempfile.TemporaryDirectory() as folder:
        one, other = (
            Answers.read(tracker.artifacts.download(run_id, FOLDER, Path(folder) / run_id)) for run_id in run_ids
        )
    if {one.data_fingerprint, other.data_fingerprint} != {data_fingerprint} or len(one.right) != len(other.right):
        raise TrackingError("the answers of the two runs are of other images than the leaderboard says; search again")
    return one.right, other.right


def _interval(found: Estimate) -> str:
    return f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def _percent(row: Row) -> str:
    ci = "" if row.test_ci is None else f" ± {100 * row.test_ci:.2f}"
    return f"{100 * (row.test or 0.0):.2f} %{ci}"


def _listed(row: Row) -> str:
    return ", ".join(map(str, row.test_seeds))
