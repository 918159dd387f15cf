"""Whole searches, live cohorts beside `--isolated`: wall-clock in turns, and whether the results are the same.

    python benchmarks/searches.py [demo] [sides] [growth]

`demo`: 16 trials of the demo space's own mix. `sides`: 16 trials of side networks and linear heads on the demo data.
`growth`: 4, 16 and 64 trials of both, as cohorts alone. Each search starts from nothing but the prepared data: its
own tracking store, its own cache of states. Writes docs/results/cohorts/searches.{md,json} and growth.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import write_result

from pipelines.tracking import RunRecord, Tracker
from pipelines.workspace import Workspace

RESULT = Path(__file__).parent.parent / "docs" / "results" / "cohorts"
SIDES = (
    "families=[{tuners: [{method: {choice: [unipt, ladder, bypass]}}]}, {tuners: []}]",
    "baselines=[{tuners: []}]",
)
BARS = {"demo": 6.0, "sides": 12.0}
TITLES = {"demo": "the demo space's own mix", "sides": "side networks and linear heads"}
SIZES = (4, 16, 64)
PAGE = """# Whole searches: live cohorts beside a worker group for each trial

`python benchmarks/searches.py`: the demo data and backbone, four epochs, two cores, no ASHA; one run of each. The
wall-clock of the command, from its start to its end: imports, Ray, MLflow, training, test, promotion. Training is the
sum of the trials' own training seconds. Machine, commit and versions stand in [searches.json](searches.json).

| search of 16 trials | cohorts | isolated | ratio | bar | training alone | largest val difference |
|---|---:|---:|---:|---:|---:|---:|"""


def overrides(name: str, num_trials: int) -> list[str]:
    """The space of one benchmark, with so many trials in all."""
    num_baselines = 2 if name == "demo" else 1
    own = SIDES if name == "sides" else ()
    return [*own, f"budget.num_trials={num_trials - num_baselines}"]


def search(name: str, num_trials: int, data: Path, *flags: str) -> tuple[float, list[RunRecord]]:
    """Seconds and runs of one search by the command line, from nothing but prepared data."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "runs"
        shutil.copytree(data, home / "data")
        command = [sys.executable, "-m", "pipelines.cli", "search", "demo", *overrides(name, num_trials), *flags]
        started = time.monotonic()
        subprocess.run(
            [*command, "--home", str(home)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - started
        workspace = Workspace(home)
        return seconds, Tracker.open(workspace.tracking_uri, workspace.artifacts).runs("demo")


def compare(name: str, data: Path, num_trials: int = 16) -> dict[str, Any]:
    """One search with live cohorts and one with a worker group for each trial."""
    together, runs = search(name, num_trials, data)
    isolated, others = search(name, num_trials, data, "--isolated")
    alone = {run.trial.trial_id: run.metrics["val/accuracy"] for run in others}
    assert alone.keys() == {run.trial.trial_id for run in runs}
    return {
        "search": name,
        "trials": num_trials,
        "seconds": together,
        "seconds_isolated": isolated,
        "ratio": isolated / together,
        "bar": BARS[name],
        "largest_val_difference": max(abs(run.metrics["val/accuracy"] - alone[run.trial.trial_id]) for run in runs),
        "training_ratio": _training(others) / _training(runs),
    }


def _training(runs: Sequence[RunRecord]) -> float:
    """Seconds of training of all trials."""
    return sum(run.metrics["train_time_s"] for run in runs)


def growth(data: Path) -> list[dict[str, Any]]:
    """How the time of a search grows with its trials."""
    return [
        {"search": name, "trials": count, "seconds": search(name, count, data)[0]} for name in TITLES for count in SIZES
    ]


def page(compared: Sequence[dict[str, Any]], grown: Sequence[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    lines = [PAGE]
    for row in compared:
        seconds = f"{row['seconds']:.0f} s | {row['seconds_isolated']:.0f} s | {row['ratio']:.1f}x | ≥{row['bar']:.0f}x"
        rest = f"{row['training_ratio']:.1f}x | {row['largest_val_difference']:.4f}"
        lines.append(f"| {TITLES[row['search']]} | {seconds} | {rest} |")
    if grown:
        lines += ["", "| trials | " + " | ".join(TITLES.values()) + " |", "|---:|---:|---:|"]
        for count in SIZES:
            cells = [f"{row['seconds']:.0f} s" for name in TITLES for row in grown if _is(row, name, count)]
            lines.append(f"| {count} | {' | '.join(cells)} |")
        lines += ["", "![time of a search by its number of trials](growth.png)"]
    return "\n".join([*lines, ""])


def _is(row: dict[str, Any], name: str, count: int) -> bool:
    return row["search"] == name and row["trials"] == count


def plot(grown: Sequence[dict[str, Any]], to: Path) -> None:
    """Draw the growth."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, title in TITLES.items():
        rows = [row for row in grown if row["search"] == name]
        axes.plot([row["trials"] for row in rows], [row["seconds"] for row in rows], marker="o", label=title)
    axes.set(xlabel="trials", ylabel="seconds", ylim=(0, None), xticks=SIZES)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(to, dpi=150)


def main() -> None:
    """Run what is asked for, and write; what is not asked for is kept from the last result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="demo, sides, growth; all if left out")
    asked = parser.parse_args().what or ["demo", "sides", "growth"]
    RESULT.mkdir(parents=True, exist_ok=True)
    file = RESULT / "searches.json"
    known = json.loads(file.read_text()) if file.exists() else {"compared": [], "growth": []}
    compared = {row["search"]: row for row in known["compared"]}
    with tempfile.TemporaryDirectory() as folder:
        data = _prepared(Path(folder))
        for name in [name for name in TITLES if name in asked]:
            compared[name] = compare(name, data)
            print(compared[name], flush=True)
        grown = growth(data) if "growth" in asked else known["growth"]
    write_result(file, "python benchmarks/searches.py", compared=list(compared.values()), growth=grown)
    (RESULT / "searches.md").write_text(page(list(compared.values()), grown))
    if grown:
        plot(grown, RESULT / "growth.png")


def _prepared(home: Path) -> Path:
    """Draw the data once."""
    from pipelines.plan import prepare_search
    from search_spaces.loader import load_space

    prepare_search(load_space("demo"), Workspace(home))
    return home / "data"


if __name__ == "__main__":
    main()
