"""Searches that are stopped early, or killed and resumed."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from tests.e2e.tools import command, draw_images, environment, utuning_here, write_space


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
    done = utuning_here(tmp_path / "runs", "search", space, "--num-workers", "1")
    assert done.returncode == 0, done.stderr + done.stdout
    found = runs(tmp_path / "runs", "early")
    assert len(found) == len({run.trial.trial_id for run in found}) == 5
    outcomes = {run.outcome for run in found}
    assert outcomes == {"completed", "stopped"}
    for run in found:
        assert (run.metrics["epoch"] == 4) == (run.outcome == "completed")


EPOCHS = 16
CUT = {"train": {"lr": {"choice": [5e-3, 1e-2]}, "epochs": EPOCHS, "batch_size": 8}, "budget": {"num_trials": 2}}


@pytest.fixture(scope="module")
def undisturbed(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """What the search gives that nobody disturbs, by trial."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = utuning_here(folder / "runs", "search", write_space(folder / "cut.yaml", images, **CUT))
    assert done.returncode == 0, done.stderr + done.stdout
    return {run.trial.trial_id: run.metrics for run in runs(folder / "runs", "cut")}


def test_a_killed_search_goes_on_where_it_was(
    images: Path, tmp_path: Path, undisturbed: dict[str, dict[str, float]]
) -> None:
    """The driver is killed in the middle of all trials; going on repeats no saved epoch, and doubles no run."""
    home, space = tmp_path / "runs", write_space(tmp_path / "cut.yaml", images, **CUT)
    with searching(home, space) as driver:
        wait_for_epochs(home, driver, 4)
        os.killpg(driver.pid, signal.SIGKILL)
    before = {run.run_id for run in runs(home, "cut")}
    done = utuning_here(home, "search", space, "--resume")
    assert done.returncode == 0, done.stderr + done.stdout
    assert before <= {run.run_id for run in runs(home, "cut")}
    assert_same_results(home, undisturbed)
    again = utuning_here(home, "search", space, "--resume")
    assert again.returncode == 1
    assert "no unfinished search" in again.stderr


def test_killed_processes_cost_no_more_than_an_epoch_each(
    images: Path, tmp_path: Path, undisturbed: dict[str, dict[str, float]]
) -> None:
    """A worker, a trial's process and the cohort service itself are killed, one after another, in one search."""
    home, space = tmp_path / "runs", write_space(tmp_path / "cut.yaml", images, **CUT)
    with searching(home, space) as driver:
        for number, process in enumerate(("RayTrainWorker", "ResourceTrainable", "CohortService")):
            wait_for_epochs(home, driver, 3 + 9 * number)
            os.kill(descendants(driver.pid, process)[0], signal.SIGKILL)
        assert driver.wait(timeout=900) == 0
    assert_same_results(home, undisturbed)


def assert_same_results(home: Path, undisturbed: dict[str, dict[str, float]]) -> None:
    """Every trial once, each with its result, and no epoch logged twice."""
    found = runs(home, "cut")
    assert {run.outcome for run in found} == {"completed"}
    assert len(found) == len(undisturbed)
    for run in found:
        for key in ("train/loss", "val/loss", "val/accuracy"):
            assert run.metrics[key] == pytest.approx(undisturbed[run.trial.trial_id][key], abs=1e-5), key
    assert logged_epochs(home) == len(found) * EPOCHS


@contextmanager
def searching(home: Path, space: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command("search", str(space)), env=environment(home), stdout=subprocess.DEVNULL, start_new_session=True
    ) as driver:
        yield driver


def wait_for_epochs(home: Path, driver: subprocess.Popen[bytes], num_epochs: int) -> None:
    """Look into the database without opening it as a store: two that create one at once would disturb each other."""
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        assert driver.poll() is None, "the search ended before it could be killed"
        if logged_epochs(home) >= num_epochs:
            return
        time.sleep(0.2)
    raise AssertionError("no epoch was logged in time")


def logged_epochs(home: Path) -> int:
    """How many epochs of how many trials are logged."""
    return count(home, "SELECT count(*) FROM metrics WHERE key = 'val/accuracy'")


def descendants(pid: int, name: str) -> list[int]:
    """The processes below one whose command line has a name in it."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    processes = [line.split(None, 2) for line in listed.splitlines()]
    below = {str(pid)}
    for _ in processes:
        below |= {each[0] for each in processes if each[1] in below}
    return [int(each[0]) for each in processes if each[0] in below and name in each[2]]


def count(home: Path, query: str) -> int:
    database = home / "mlflow.db"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the tables are being made
