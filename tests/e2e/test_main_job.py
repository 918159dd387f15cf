"""The main job through the command line: search, compare, pull, predict; real Ray, real MLflow, real files."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.results.compare import read_rows
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from tests.e2e.clusters import two_nodes
from tests.e2e.tools import COUNTS, draw_images, utuning, utuning_here, write_space


@dataclass(frozen=True)
class Searched:
    root: Path
    home: Path
    output: str

    def runs(self) -> list[RunRecord]:
        workspace = Workspace(self.home)
        return Tracker.open(workspace.tracking_uri, workspace.artifacts).runs("tiny")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    root = tmp_path_factory.mktemp("main-job")
    space = write_space(root / "tiny.yaml", draw_images(root / "images"), seeds=[0, 1], budget={"num_trials": 1})
    done = utuning(root / "runs", "search", str(space))
    assert done.returncode == 0, done.stderr + done.stdout
    return Searched(root, root / "runs", done.stdout)


def test_the_plan_and_what_is_trainable_come_first(searched: Searched) -> None:
    plan, _, rest = searched.output.partition("what is trainable")
    assert "48 train, 16 val, 16 test" in plan
    assert "4 trials" in plan
    assert "linear lr5e-3 seed0" in rest
    assert "step cost" in rest


def test_every_trial_is_one_run_with_its_epochs_and_facts(searched: Searched) -> None:
    runs = searched.runs()
    assert len(runs) == len({run.trial.trial_id for run in runs}) == 4
    assert {run.outcome for run in runs} == {"completed"}
    for run in runs:
        assert run.metrics["epoch"] == 2
        assert 0 <= run.metrics["val/accuracy"] <= 1
        for fact in ("train_time_s", "images_per_s", "peak_memory_bytes", "bundle_bytes", "trainable_params"):
            assert run.metrics[fact] > 0
        assert 0 < run.metrics["input_wait"] < 1


def test_test_was_read_for_the_best_and_the_baseline_alone(searched: Searched) -> None:
    measured = {run.trial.label for run in searched.runs() if "test/accuracy" in run.metrics}
    assert len(measured) == 2
    assert "linear lr5e-3" in measured
    assert all(run.metrics.get("test/count", 16) == 16 for run in searched.runs())


def test_the_leaderboard_is_a_table_and_three_files(searched: Searched) -> None:
    done = utuning_here(searched.home, "leaderboard", "tiny", "--to", str(searched.root / "board"))
    assert done.returncode == 0, done.stderr
    assert "linear lr5e-3" in done.stdout
    document = json.loads((searched.root / "board" / "leaderboard.json").read_text())
    assert [row["place"] for row in document["rows"]] == [1, 2]
    assert sum(row["champion"] for row in document["rows"]) == 1
    assert document["rows"][0]["seeds"] == [0, 1]
    assert "| 1" in (searched.root / "board" / "leaderboard.md").read_text().replace("**", "")
    assert (searched.root / "board" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_a_pulled_champion_predicts_without_store_or_ray(searched: Searched, tmp_path: Path) -> None:
    done = utuning_here(searched.home, "pull", "tiny", "--to", str(tmp_path / "champion"))
    assert done.returncode == 0, done.stderr
    images = sorted((searched.root / "images" / "test").rglob("*.jpg"))
    shutil.move(searched.home / "mlflow.db", searched.home / "away.db")
    try:
        told = utuning(tmp_path / "nowhere", "predict", str(tmp_path / "champion"), *map(str, images), "--json")
    finally:
        shutil.move(searched.home / "away.db", searched.home / "mlflow.db")
    assert told.returncode == 0, told.stderr
    predictions = json.loads(told.stdout)
    assert len(predictions) == len(images) == 4 * COUNTS["test"]
    right = sum(max(p["classes"], key=p["classes"].get) == Path(p["image"]).parent.name for p in predictions)
    manifest = json.loads((tmp_path / "champion" / "manifest.json").read_text())
    (champion,) = (run for run in searched.runs() if run.trial.trial_id == manifest["trial_id"])
    assert manifest["metrics"]["test/accuracy"] == champion.metrics["test/accuracy"]
    assert right / len(images) == pytest.approx(champion.metrics["test/accuracy"])


def test_a_warm_search_really_tries_what_was_best_before(searched: Searched) -> None:
    """Both rows of the first search can be drawn again, so that whichever was best is proposed, trained and marked."""
    families = [{"tuners": []}, {"tuners": [{"method": "p_adapter", "ops": ["attn", "mlp"], "bottleneck_dim": 4}]}]
    space = write_space(searched.root / "later.yaml", searched.root / "images", families=families, baselines=[])
    workspace = Workspace(searched.home)
    tracker = Tracker.open(workspace.tracking_uri, workspace.artifacts)
    best = read_rows(tracker, "tiny")[0].label
    reason = f"like tiny (distance 0.00): {best} was 1st of 2"
    flags = ("train.epochs=1", "--num-workers", "1", "--warm-start")
    done = utuning_here(searched.home, "search", str(space), *flags)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "1 proposal from 1 earlier search of 1 data set" in done.stdout
    assert f" 1. {best}: {reason}" in done.stdout

    runs = {run.trial.label: run for run in tracker.runs("later")}
    assert len(runs) == 2 and {run.outcome for run in runs.values()} == {"completed"}
    tags = {label: tracker.client.get_run(run.run_id).data.tags.get("warm_start") for label, run in runs.items()}
    (other,) = runs.keys() - {best}
    assert tags == {best: reason, other: None}
    assert runs[best].metrics["epoch"] == 1 and 0 <= runs[best].metrics["val/accuracy"] <= 1
    (parent,) = tracker.searches("later")
    kept = {file.path for file in tracker.client.list_artifacts(parent.run_id)}
    assert {"warm_start.json", "statistics.json"} <= kept


def test_an_alias_that_does_not_exist_lists_those_that_do(searched: Searched, tmp_path: Path) -> None:
    done = utuning_here(searched.home, "pull", "tiny@canary", "--to", str(tmp_path / "x"))
    assert done.returncode == 1
    assert "champion" in done.stderr
    assert not (tmp_path / "x").exists()


def test_two_workers_on_a_running_cluster_equal_those_here(searched: Searched, tmp_path: Path) -> None:
    space = ("search", str(searched.root / "tiny.yaml"), "seeds=[0]")
    with two_nodes() as cluster:
        done = utuning(tmp_path / "runs", *space, "--cluster", cluster, "--num-workers", "2")
    assert done.returncode == 0, done.stderr + done.stdout
    workspace = Workspace(tmp_path / "runs")
    there = Tracker.open(workspace.tracking_uri, workspace.artifacts).runs("tiny")
    here = {run.trial.trial_id: run.metrics for run in searched.runs()}
    assert len(there) == len({run.trial.trial_id for run in there}) == 2
    for run in there:
        for key in ("train/loss", "val/loss", "val/accuracy"):
            assert run.metrics[key] == pytest.approx(here[run.trial.trial_id][key], abs=1e-5), key
