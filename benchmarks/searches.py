"""Whole searches, live cohorts beside `--isolated`: wall-clock in turns, what the planner said, and the same results.

    python benchmarks/searches.py [demo] [sides] [layout] [grow-demo] [grow-sides] [grow-adapters] [--trials 4 16 64]

`demo`: 16 trials of the demo space's own mix. `sides`: 16 trials of side networks and linear heads on the demo data.
`layout`: eight demo trials isolated, and in cohorts of one and of two workers: are their results the same?
`grow-demo`, `grow-sides`, `grow-adapters`: so many trials of each, as cohorts alone, beside what was planned; the last
is a space that is not compared, of adapters alone on larger batches with new crops in every epoch.
Each search starts from nothing but the prepared data: its own tracking store, its own cache of states. Writes
docs/results/cohorts/searches.{md,json} and growth.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_file import SOURCE, table_row, write_result

from cluster.profile import load_profile
from pipelines.planning.forecast import forecast, stand_in
from pipelines.planning.plan import prepare_search
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from search_spaces.loader import load_space

RESULT = Path(__file__).parent.parent / "docs" / "results" / "cohorts"


@dataclass(frozen=True)
class Mix:
    """A space of the benchmark: the demo's, with these changes; the bars stand in the project's plan.

    One without bars shows what the planner says of it.
    """

    title: str
    changes: tuple[str, ...]
    bar: float = 0.0
    growth_bar: float = 0.0

    def overrides(self, num_trials: int) -> list[str]:
        """The space with so many trials in all."""
        baselines = len(load_space("demo", self.changes).baselines)
        return [*self.changes, f"budget.num_trials={num_trials - baselines}"]


MIXES = {
    "demo": Mix("the demo space's own mix", (), 6.0, 10.0),
    "sides": Mix(
        "side networks and linear heads",
        (
            "families=[{tuners: [{method: {choice: [unipt, ladder, bypass]}}]}, {tuners: []}]",
            "baselines=[{tuners: []}]",
        ),
        12.0,
        5.0,
    ),
    "adapters": Mix(
        "adapters, batches of 64, new crops in every epoch",
        (
            "families=[{tuners: [{method: p_adapter, ops: {choice: [[attn], [attn, mlp]]}, "
            'depths: {choice: [all, "last:2"]}, bottleneck_dim: {choice: [8, 16]}}]}]',
            "baselines=[{tuners: []}]",
            "train.batch_size=64",
            "views=online",
        ),
    ),
}
COMPARED = [name for name, mix in MIXES.items() if mix.bar]
SIZES = (4, 16, 64)
PAGE = """# Whole searches: live cohorts beside a worker group for each trial

`python benchmarks/searches.py`: the demo data and backbone, four epochs, two cores, no ASHA; one run of each. Seconds
are the wall-clock of the command, from its start to its end: imports, Ray, MLflow, training, test, promotion.
Machine, versions and the commit of each row stand in [searches.json](searches.json).

| search of 16 trials | cohorts | isolated | ratio | bar | FLOPs alone allow | with starts of processes, planned | \
largest val difference |
|---|---:|---:|---:|---:|---:|---:|---:|"""
PLANNED = """
What `utuning plan` said before, and what it took:

| search | trials | predicted | measured | off by |
|---|---:|---:|---:|---:|"""


def search(name: str, num_trials: int, data: Path, *flags: str) -> tuple[float, list[RunRecord]]:
    """Seconds and runs of one search by the command line, from nothing but prepared data."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "runs"
        shutil.copytree(data, home / "data")
        overrides = MIXES[name].overrides(num_trials)
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "search", "demo", *overrides, *flags, "--home", str(home)],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - started
        return seconds, Tracker.of(Workspace(home)).runs("demo")


def planned(name: str, num_trials: int, data: Path) -> dict[str, float]:
    """What the planner says of a search."""
    ready = prepare_search(load_space("demo", MIXES[name].overrides(num_trials)), Workspace(data.parent))
    profile = load_profile("local")
    found = forecast(ready, profile, *stand_in(profile))
    return {
        "predicted_s": found.seconds,
        "flops_ratio": found.flops_isolated / found.flops,
        "planned_ratio": found.seconds_isolated / found.seconds,
        "calibration_s": found.calibration_s,
    }


def together(name: str, num_trials: int, data: Path) -> tuple[dict[str, Any], list[RunRecord]]:
    """One search with live cohorts, planned before."""
    plan = planned(name, num_trials, data)
    seconds, runs = search(name, num_trials, data)
    return {"search": name, "trials": num_trials, "seconds": seconds, **plan, "commit": SOURCE["commit"]}, runs


def compare(name: str, data: Path, num_trials: int = 16) -> dict[str, Any]:
    """One search with live cohorts and one with a worker group for each trial."""
    row, runs = together(name, num_trials, data)
    isolated, others = search(name, num_trials, data, "--isolated")
    alone, shared = _accuracies(others), _accuracies(runs)
    assert alone.keys() == shared.keys()
    return {
        **row,
        "seconds_isolated": isolated,
        "ratio": isolated / row["seconds"],
        "largest_val_difference": max(abs(accuracy - alone[trial]) for trial, accuracy in shared.items()),
    }


def layouts(data: Path, num_trials: int = 8) -> dict[str, Any]:
    """The largest difference in val accuracy to isolated trials, which have one worker each, by a cohort's workers."""
    alone = _accuracies(search("demo", num_trials, data, "--isolated")[1])
    found = {}
    for workers in (1, 2):
        together = _accuracies(search("demo", num_trials, data, "--num-workers", str(workers))[1])
        found[str(workers)] = max(abs(together[trial] - accuracy) for trial, accuracy in alone.items())
    return {"trials": num_trials, "largest_val_difference": found, "commit": SOURCE["commit"]}


def _accuracies(runs: Sequence[RunRecord]) -> dict[str, float]:
    return {run.trial.trial_id: run.metrics["val/accuracy"] for run in runs}


def page(
    compared: Sequence[dict[str, Any]], grown: Sequence[dict[str, Any]], layout: Mapping[str, Any] | None = None
) -> str:
    """All tables as Markdown."""
    lines = [PAGE]
    for row in compared:
        mix = MIXES[row["search"]]
        seconds = (f"{row[key]:.0f} s" for key in ("seconds", "seconds_isolated"))
        allowed = (f"{row[key]:.1f}x" for key in ("flops_ratio", "planned_ratio"))
        ratios = (f"{row['ratio']:.1f}x", f"≥{mix.bar:.0f}x", *allowed)
        lines.append(table_row(mix.title, *seconds, *ratios, f"{row['largest_val_difference']:.4f}"))
    if layout:
        one, two = (layout["largest_val_difference"][workers] for workers in ("1", "2"))
        lines += [
            "",
            f"Val accuracy of {layout['trials']} trials of the demo's mix beside isolated trials of one worker each:",
            f"cohorts of one worker differ by {one:.4f} at most, cohorts of two workers by {two:.4f}.",
        ]
    lines.append(PLANNED)
    for row in grown or compared:
        off = row["predicted_s"] / row["seconds"] - 1
        seconds = (f"{row[key]:.0f} s" for key in ("predicted_s", "seconds"))
        lines.append(table_row(MIXES[row["search"]].title, row["trials"], *seconds, f"{off:+.0%}"))
    if grown:
        lines += ["", "How the time grows with the trials:", ""]
        for name, mix in ((name, MIXES[name]) for name in COMPARED):
            few, many = (row["seconds"] for row in grown if row["search"] == name and row["trials"] in (4, 64))
            lines.append(
                f"- {mix.title}: 64 trials take {many / few:.1f} times what 4 take (bar ≤{mix.growth_bar:.0f})"
            )
        lines += ["", "![time of a search by its number of trials](growth.png)"]
    return "\n".join([*lines, ""])


def plot(grown: Sequence[dict[str, Any]], to: Path) -> None:
    """Draw the growth."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name in COMPARED:
        rows = [row for row in grown if row["search"] == name]
        title = MIXES[name].title
        axes.plot([row["trials"] for row in rows], [row["seconds"] for row in rows], marker="o", label=title)
    axes.set(xlabel="trials", ylabel="seconds", ylim=(0, None), xticks=SIZES)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(to, dpi=150)


def main() -> None:
    """Run what is asked for, and write; what is not asked for is kept from the last result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="as above; all if left out")
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES, help="how many, for growth")
    options = parser.parse_args()
    asked = options.what or [*COMPARED, "layout", *(f"grow-{name}" for name in MIXES)]
    file = RESULT / "searches.json"
    known = json.loads(file.read_text()) if file.exists() else {"compared": [], "growth": []}
    compared = {row["search"]: row for row in known["compared"]}
    grown = {(row["search"], row["trials"]): row for row in known["growth"]}
    layout = known.get("layout")
    with tempfile.TemporaryDirectory() as folder:
        data = prepared_data(Path(folder))
        for name in [name for name in COMPARED if name in asked]:
            compared[name] = compare(name, data)
            write(compared, grown, layout)
        if "layout" in asked:
            layout = layouts(data)
            write(compared, grown, layout)
        for name in [name for name in MIXES if f"grow-{name}" in asked]:
            for count in options.trials:
                grown[name, count] = together(name, count, data)[0]
                write(compared, grown, layout)


def write(
    compared: dict[str, dict[str, Any]], grown: dict[tuple[str, int], dict[str, Any]], layout: dict[str, Any] | None
) -> None:
    """Write what is there so far: it takes long."""
    rows, sizes = list(compared.values()), [grown[key] for key in sorted(grown)]
    for row in sizes:
        print(row, flush=True)
    whole = all((name, count) in grown for name in COMPARED for count in SIZES)
    text = page(rows, sizes if whole else (), layout)
    values = {"compared": rows, "growth": sizes, "layout": layout}
    write_result(RESULT / "searches.json", "python benchmarks/searches.py", text, **values)
    if whole:
        plot(sizes, RESULT / "growth.png")


def prepared_data(home: Path) -> Path:
    """Draw the data once."""
    prepare_search(load_space("demo"), Workspace(home))
    return home / "data"


if __name__ == "__main__":
    main()
