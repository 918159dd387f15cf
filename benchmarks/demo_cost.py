"""What `make demo` costs after installation: wall-clock seconds and peak memory of all its processes together.

    python benchmarks/demo_cost.py [--runs 2] [--folder FOLDER]

Runs the demo twice in one folder (the second run finds the data and the champion of the first), a temporary one unless
given; sums every few seconds the proportional set size of every process that carries the run's marker, and writes
benchmarks/results/demo_cost.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from result_file import write_result

# Reading the memory of some thirty processes takes a while itself.
INTERVAL_S = 4.0
MARKER = "UTUNING_COST_RUN"
RESULT = Path(__file__).parent / "results" / "demo_cost.json"


def marked_processes(marker: str) -> list[Path]:
    """The /proc folders of every process that inherited the marker, workers of Ray included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found.append(folder)
        except OSError:
            continue
    return found


def pss_bytes(folder: Path) -> int:
    """Proportional set size of a process: shared pages count once over all that share them."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def watch(marker: str, stop: threading.Event, samples: list[int]) -> None:
    """Sample until told to stop."""
    while not stop.wait(INTERVAL_S):
        samples.append(sum(pss_bytes(folder) for folder in marked_processes(marker)))


def run_once(folder: Path) -> dict[str, Any]:
    """One demo: seconds, peak bytes, and how its output ends."""
    value = f"{folder.name}-{time.time_ns()}"
    stop, samples = threading.Event(), [0]
    watcher = threading.Thread(target=watch, args=(f"{MARKER}={value}", stop, samples))
    watcher.start()
    started = time.perf_counter()
    environment = {**os.environ, MARKER: value, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.demo"], cwd=folder, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    print(done.stdout, done.stderr)
    return {"seconds": round(seconds, 1), "peak_memory_gb": round(max(samples) / 1e9, 2), "exit_code": done.returncode}


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep what the demo writes here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_once(given.folder or Path(folder)) for _ in range(given.runs)]
    write_result(RESULT, f"python benchmarks/demo_cost.py --runs {given.runs}", runs=runs)
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
