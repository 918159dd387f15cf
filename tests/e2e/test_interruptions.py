"""Searches that are stopped early, killed and resumed, and searches on a cluster that runs already."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
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
    """Look into the database without opening it as a store: two that create one at once would disturb each other."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert driver.poll() is None, "the search ended before it could be killed"
        if count_outcomes(home / "mlflow.db", "completed") > 0:
            return
        time.sleep(0.5)
    raise AssertionError("no trial finished in time")


def count_outcomes(database: Path, outcome: str) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            query = "SELECT count(*) FROM tags WHERE key = 'outcome' AND value = ?"
            return int(connection.execute(query, (outcome,)).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the tables are being made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A head and a second node process, each with one CPU, on loopback; only their own processes are ended."""
    port = free_port()
    head = ["--head", f"--port={port}", f"--dashboard-port={free_port()}"]
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for role in (head, [f"--address=127.0.0.1:{port}"]):
            nodes.append(start_node(role))
            wait_until_alive(f"127.0.0.1:{port}", len(nodes))
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(nodes):
            os.killpg(node.pid, signal.SIGTERM)
            node.wait(timeout=60)


def start_node(role: list[str]) -> subprocess.Popen[bytes]:
    """Start one node process in the foreground of a process group of its own."""
    common = ["--num-cpus=1", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, *common]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=cluster_environment(), stdout=quiet, stderr=quiet, start_new_session=True)


def cluster_environment() -> dict[str, str]:
    """Ray protects a head with a token where the user has one; its nodes have to show it."""
    token = Path.home() / ".ray" / "auth_token"
    return {**os.environ, **({"RAY_AUTH_MODE": "token"} if token.exists() else {})}


def wait_until_alive(address: str, num_nodes: int) -> None:
    count = (
        f"import ray; ray.init(address={address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    )
    for _ in range(20):
        done = subprocess.run([sys.executable, "-c", count], env=cluster_environment(), capture_output=True, text=True)
        if done.returncode == 0 and int(done.stdout.split()[-1]) >= num_nodes:
            return
        time.sleep(2)
    raise AssertionError(f"{address} did not come up: {done.stderr[-500:]}")


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
