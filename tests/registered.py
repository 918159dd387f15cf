"""Real MLflow processes for tests, and runs with bundles to register."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipelines.tracking.tracker import Tracker
from tests.bundles import METRICS, NAMES, trained, trial
from tests.tools import tiny_backbone, train
from utuning.bundles.bundle import save_bundle


@contextmanager
def mlflow(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """Run `mlflow COMMAND` on a free loopback port until it answers, and end it; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**own, "PATH": path, **quiet, **environment},
        )
    try:
        _wait_for(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def finished_run(
    tracker: Tracker,
    folder: Path,
    seed: int,
    *,
    space: str = "space",
    bundle: bool = True,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Track one trial of a head alone, with its bundle; gives the run's id."""
    backbone = tiny_backbone()
    config = trial(backbone, train=train(seed=seed))
    made = save_bundle(
        folder, trained(backbone, config), backbone=backbone, trial=config, class_names=NAMES, metrics=METRICS,
        versions={},
    )  # fmt: skip
    parent = tracker.start_search(space, search_id="s1", params={"a": 1}, tags={})
    run_id = tracker.start_trial(parent, config)
    tracker.log_epoch(run_id, 1, {"val/accuracy": 0.6, **(metrics or {})})
    tracker.finish_trial(
        run_id, status="FINISHED", outcome="completed", metrics={}, bundle=made if bundle else None, error=None
    )
    return run_id


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())
