"""Searches that are stopped early, killed and resumed, and searches on a cluster that runs already."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.tracking import RunRecord, Tracker
from pipelines.workspace import Workspace
from tests.e2e.tools import command, draw_images, environment, utuning, write_space


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "images")


def runs(home: Path, space: str) -> list[RunRecord]:
    workspace = Workspace(home)
    return Tracker.open(workspace.tracking_uri, workspace.artifacts).runs(space)


def test_asha_and_optuna_stop_trials_and_the_search_ends(images: Path, tmp_path: Path) -> None:
    space = write_space(
        tmp_path / "early.yaml",
        images,
        train={"lr": {"loguniform": [1e-5, 1e-2]}, "epochs": 4, "batch_size": 8},
        budget={"num_trials": 4, "searcher": "optuna", "scheduler": "asha", "grace_epochs": 1},
    )
    done = utuning(tmp_path / "runs", "search", str(space))
    assert done.returncode == 0, done.stderr + done.stdout
    found = runs(tmp_path / "runs", "early")
    assert len(found) == len({run.trial.trial_id for run in found}) == 5
    outcomes = {run.outcome for run in found}
    assert outcomes == {"completed", "stopped"}
    for run in found:
        assert (run.metrics["epoch"] == 4) == (run.outcome == "completed")


def test_a_killed_search_goes_on_without_repeating(images: Path, tmp_path: Path) -> None:
    """The driver is killed once a trial is finished; going on runs the others, and no run is doubled."""
    home = tmp_path / "runs"
    space = write_space(tmp_path / "killed.yaml", images, budget={"num_trials": 2})
    with subprocess.Popen(
        command("search", str(space)), env=environment(home), stdout=subprocess.DEVNULL, start_new_session=True
    ) as driver:
        wait_for_a_finished_trial(home, "killed", driver)
        os.killpg(driver.pid, signal.SIGKILL)
    before = {run.run_id: run for run in runs(home, "killed")}
    finished = {run_id: run.metrics for run_id, run in before.items() if run.outcome == "completed"}
    assert 0 < len(finished) < 3
    done = utuning(home, "search", str(space), "--resume")
    assert done.returncode == 0, done.stderr + done.stdout
    after = runs(home, "killed")
    assert len(after) == len({run.trial.trial_id for run in after}) == 3
    assert set(before) <= {run.run_id for run in after}
    assert {run.outcome for run in after} == {"completed"}
    for run in after:
        if run.run_id in finished:
            assert run.metrics["train_time_s"] == finished[run.run_id]["train_time_s"]
    again = utuning(home, "search", str(space), "--resume")
    assert again.returncode == 1
    assert "no unfinished search" in again.stderr


def wait_for_a_finished_trial(home: Path, space: str, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert driver.poll() is None, "the search ended before it could be killed"
        if (home / "mlflow.db").exists():
            try:
                if any(run.outcome == "completed" for run in runs(home, space)):
                    return
            except Exception:
                pass  # the store is being made
        time.sleep(0.5)
    raise AssertionError("no trial finished in time")


@pytest.fixture
def cluster() -> Iterator[str]:
    """A head and a second node process, each with one CPU, on loopback."""
    address = f"127.0.0.1:{free_port()}"
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    options = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    common = ["--num-cpus=1", "--disable-usage-stats"]
    try:
        head = ["start", "--head", f"--port={address.partition(':')[2]}", "--node-ip-address=127.0.0.1"]
        subprocess.run([*ray, *head, f"--dashboard-port={free_port()}", *common], env=options, check=True, timeout=120)
        subprocess.run([*ray, "start", f"--address={address}", *common], env=options, check=True, timeout=120)
        yield address
    finally:
        subprocess.run([*ray, "stop", "--force"], env=options, check=False, timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_workers_on_a_running_cluster_equal_one_here(images: Path, tmp_path: Path, cluster: str) -> None:
    space = write_space(tmp_path / "spread.yaml", images, budget={"num_trials": 1})
    there = utuning(tmp_path / "there", "search", str(space), "--cluster", cluster, "--num-workers", "2")
    assert there.returncode == 0, there.stderr + there.stdout
    here = utuning(tmp_path / "here", "search", str(space))
    assert here.returncode == 0, here.stderr + here.stdout
    alone = {run.trial.trial_id: run.metrics for run in runs(tmp_path / "here", "spread")}
    spread = {run.trial.trial_id: run.metrics for run in runs(tmp_path / "there", "spread")}
    assert alone.keys() == spread.keys()
    for trial_id, metrics in alone.items():
        for key in ("train/loss", "val/loss", "val/accuracy"):
            assert spread[trial_id][key] == pytest.approx(metrics[key], abs=1e-5), key
