"""Where the time goes: a search's CPU-seconds by kind of process, and a step's by kind of operation.

    python benchmarks/profiles.py [search] [steps]

`search` samples all processes of a search of 16 trials of the demo's own mix once a second. `steps` profiles the steps
of benchmarks/cohorts.py whose aims are furthest away. Writes docs/results/cohorts/profile.{md,json,png}.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from cohorts import SIDES, adapter, known_states, member, one_by_one, small_scene, stepping
from demo_cost import MARKER, marked_processes
from result_file import SOURCE, table_row, write_result
from searches import MIXES, prepared_data
from torch.profiler import ProfilerActivity, profile

from utuning.cohort import Cohort
from utuning.configs import TunerConfig

RESULT = Path(__file__).parent.parent / "docs" / "results" / "cohorts"
TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL_S, NUM_TRIALS, STEPS, PEAK_SIZE = 1.0, 16, 3, 1536
# A process of Ray is called what it does; before that it imports.
PROCESSES = {
    "workers: train": r"^ray::RayTrainWorker(\.__execute|\.run)?\W*$",
    "workers: start": r"^ray::RayTrainWorker",
    "trials": r"^ray::(Trial|ResourceTrainable|\w*Trainable)",
    "service": r"^ray::CohortService",
    "groups' controllers": r"^ray::(TrainController|Sync|_Autoscaling)",
    "starting, for whom is not yet seen": r"^ray::IDLE|default_worker",
    "driver": r"pipelines\.cli",
    "Ray": r"",
}
OPERATIONS = {
    "matrix products": r"^aten::(mm|addmm|bmm|baddbmm)$",
    "attention": r"^aten::_scaled_dot_product",
    "GELU": r"^aten::gelu",
    "copies": r"^aten::(copy_|cat|fill_|zero_|clone|_to_copy)$",
    "other element-wise and sums": r"^aten::(add|sub|mul|div|neg|sum|mean|exp|sigmoid|native_layer_norm|_?softmax)",
    "optimiser": r"adam",
    "dispatch, autograd, Python": r"",
}
PAGE = """# Where the time goes

`python benchmarks/profiles.py`; machine, versions and commit stand in [profile.json](profile.json).

## A search of {num_trials} trials of the demo's own mix, {seconds:.0f} s on {cpus} cores

| processes | CPU-seconds | share |
|---|---:|---:|
{processes}

![CPU by kind of process](profile.png)

Nothing trains for the first {first:.0f} s. If training took no time at all, this search would be {limit:.1f} times
as fast as an isolated one ({isolated:.0f} s): sharing cannot go beyond that where a trial trains for a few seconds.

## Steps

One CPU thread; the peak of its matrix products was {peak:.0f} GFLOP/s ({size} x {size}). Milliseconds of a step's
operations themselves; the profiler makes the row of dispatch larger than it is.

| operations | {titles} |
|---|{rule}
{operations}
{rates}
"""


def kind(name: str, table: Mapping[str, str]) -> str:
    """The first row of a table whose pattern is found in a name."""
    return next(title for title, pattern in table.items() if re.search(pattern, name))


def sample(marker: str) -> dict[tuple[str, int], tuple[str, float]]:
    """Kind and CPU-seconds of each marked process, by its id and the time it began."""
    found = {}
    for folder in marked_processes(marker):
        try:
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found[folder.name, int(fields[19])] = kind(name, PROCESSES), (int(fields[11]) + int(fields[12])) / TICKS
    return found


def watch_search(data: Path) -> list[dict[str, float]]:
    """CPU-seconds by kind of process, a row a second; what a process did is counted as what it is called by then."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "runs"
        home.mkdir()
        (home / "data").symlink_to(data)
        command = [sys.executable, "-m", "pipelines.cli", "search", "demo", *MIXES["demo"].overrides(NUM_TRIALS)]
        marker = str(time.time_ns())
        environment = {**os.environ, MARKER: marker, "OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(
            [*command, "--home", str(home)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        rows, known = [], Counter()
        while running.poll() is None:
            time.sleep(INTERVAL_S)
            row: Counter[str] = Counter()
            for process, (name, seconds) in sample(f"{MARKER}={marker}").items():
                row[name] += seconds - known[process]
                known[process] = seconds
            rows.append({name: round(row[name], 2) for name in PROCESSES})
        assert running.returncode == 0
    return rows


def plot(rows: Sequence[Mapping[str, float]], to: Path) -> None:
    """Draw who was busy when."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    names = [name for name in reversed(PROCESSES) if any(row[name] for row in rows)]
    series = [smooth([row[name] / INTERVAL_S for row in rows]) for name in names]
    axes.stackplot([n * INTERVAL_S for n in range(len(rows))], series, labels=names)
    axes.set(xlabel="seconds since the command began", ylabel="busy cores", xlim=(0, len(rows) * INTERVAL_S))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], frameon=False, loc="outside right upper")
    figure.savefig(to, dpi=150)


def smooth(values: Sequence[float], width: int = 3) -> list[float]:
    """Means over a few neighbours: CPU time comes in ticks."""
    return [sum(part := values[max(0, n - width) : n + width + 1]) / len(part) for n in range(len(values))]


def profiled(step: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, and the rate of its matrix products in GFLOP/s."""
    step()
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
        for _ in range(STEPS):
            step()
    spent: Counter[str] = Counter()
    flops = 0
    for event in found.key_averages():
        name = kind(event.key, OPERATIONS)
        spent[name] += event.self_cpu_time_total / 1000 / STEPS
        flops += event.flops / STEPS if name == "matrix products" else 0
    return {**{name: spent[name] for name in OPERATIONS}, "gflops": flops / spent["matrix products"] / 1e6}


def profile_steps() -> dict[str, dict[str, float]]:
    """The steps that are compared, by title."""
    scene = small_scene()
    frozen = scene.frozen
    adapters = [[member(frozen, adapter(f"last:{1 + n % 4}"), seed=n) for n in range(24)] for _ in range(2)]
    sides = [member(frozen, TunerConfig(method=SIDES[n % 3]), seed=n) for n in range(9)]
    with tempfile.TemporaryDirectory() as folder:
        read, _ = known_states(scene, adapters[0], Path(folder))
        cohort = Cohort(frozen, adapters[0])
        return {
            "24 adapters with cached states": profiled(lambda: cohort.step(read())),
            "24 adapters one by one": profiled(one_by_one(frozen, adapters[1], scene.data)),
            "9 side networks": profiled(stepping(frozen, sides, scene.data)),
        }


def peak_gflops() -> float:
    """The rate of a large matrix product, the best of a few."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return 2 * PEAK_SIZE**3 / min(seconds) / 1e9


def page(search: Mapping[str, Any], steps: Mapping[str, Any]) -> str:
    """Both profiles as Markdown."""
    rows, titles = search["rows"], list(steps["steps"])
    total = {name: sum(row[name] for row in rows) for name in PROCESSES}
    first = next(n for n, row in enumerate(rows) if row["workers: train"] > 0) * INTERVAL_S
    compared = json.loads((RESULT / "searches.json").read_text())["compared"]
    isolated = next(row["seconds_isolated"] for row in compared if row["search"] == "demo")
    return PAGE.format(
        num_trials=NUM_TRIALS,
        seconds=len(rows) * INTERVAL_S,
        cpus=os.cpu_count(),
        processes="\n".join(table_row(name, f"{s:.0f}", f"{s / sum(total.values()):.0%}") for name, s in total.items()),
        first=first,
        isolated=isolated,
        limit=isolated / first,
        peak=steps["peak_gflops"],
        size=PEAK_SIZE,
        titles=" | ".join(titles),
        rule="---:|" * len(titles),
        operations="\n".join(line(name, [steps["steps"][title][name] for title in titles]) for name in OPERATIONS),
        rates=line("matrix products, GFLOP/s", [steps["steps"][title]["gflops"] for title in titles]),
    )


def line(name: str, values: Sequence[float]) -> str:
    """A row of whole numbers."""
    return table_row(name, *(f"{value:.0f}" for value in values))


def main() -> None:
    """Measure what is asked for, and write; what is not asked for is kept from the last result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="search, steps; both if left out")
    asked = parser.parse_args().what or ["search", "steps"]
    file = RESULT / "profile.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    torch.set_num_threads(1)
    if "search" in asked:
        with tempfile.TemporaryDirectory() as folder:
            known["search"] = {"rows": watch_search(prepared_data(Path(folder))), "commit": SOURCE["commit"]}
    if "steps" in asked:
        known["steps"] = {"steps": profile_steps(), "peak_gflops": peak_gflops(), "commit": SOURCE["commit"]}
    parts = {part: known[part] for part in ("search", "steps") if part in known}
    whole = len(parts) == 2
    write_result(file, "python benchmarks/profiles.py", page(**parts) if whole else None, **parts)
    if whole:
        plot(parts["search"]["rows"], RESULT / "profile.png")


if __name__ == "__main__":
    main()
