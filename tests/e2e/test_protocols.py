"""`trainval-final` through the command line: test out of reach until its end, read once; two rows compared."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipelines.data.datasets import prepared
from pipelines.results.answers import FOLDER, Answers
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from search_spaces.space import DatasetSpec
from tests.e2e.test_interruptions import count, logged_epochs
from tests.e2e.tools import COUNTS, draw_images, spoil, utuning_here, write_space
from utuning.bundles.bundle import read_bundle

SEEDS = (0, 1, 2)


def runs(tracker: Tracker) -> dict[str, RunRecord]:
    return {run.run_id: run for run in tracker.runs("finals")}


def test_select_on_val_train_again_on_both_and_measure_test_once_a_seed(tmp_path: Path) -> None:
    home, images = tmp_path / "runs", draw_images(tmp_path / "images")
    workspace = Workspace(home)
    data = prepared(DatasetSpec(name="finals", source="folder", path=str(images)), workspace)
    space = write_space(
        tmp_path / "finals.yaml",
        images,
        dataset={"name": "finals", "source": "parquet", "path": str(data.path)},
        protocol="trainval-final",
        train={"lr": 5e-3, "epochs": 1, "batch_size": 8},
        # Whichever is chosen, both are measured.
        baselines=[{"tuners": []}, {"tuners": [{"method": "p_adapter", "ops": ["attn"], "bottleneck_dim": 4}]}],
        budget={"num_trials": 0},
    )
    search = ("search", str(space), "--num-workers", "1")  # two seeds side by side on two cores

    def read(*words: str) -> str:
        done = utuning_here(home, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # The rows of test are spoilt: neither the search nor the finals' training notices, only their measuring.
    whole = spoil(Path(str(data.path)))
    done = utuning_here(home, *search)
    assert done.returncode == 1, done.stderr + done.stdout
    assert "'test' cannot be read" in done.stderr
    tracker = Tracker.open(workspace.tracking_uri, workspace.artifacts)
    before = runs(tracker)
    assert {run.outcome for run in before.values()} == {"completed"}
    assert Counter((run.final, run.trial.train_splits) for run in before.values()) == {
        (False, ("train",)): 2,
        (True, ("train", "val")): 2 * len(SEEDS),
    }
    finals = [run for run in before.values() if run.final]
    assert sorted(run.trial.train.seed for run in finals) == [0, 0, 1, 1, 2, 2]
    assert not any(key.startswith("test/") for run in before.values() for key in run.metrics)
    assert not any(key.startswith("val/") for run in finals for key in run.metrics), "they trained on val"
    trained = count(home, "SELECT count(*) FROM metrics WHERE key = 'train/loss'")
    assert (trained, logged_epochs(home)) == (2 + 2 * len(SEEDS), 2)

    # With test restored, going on trains nothing again and measures each final once.
    for file, content in whole.items():
        file.write_bytes(content)
    done = utuning_here(home, *search, "--resume")
    assert done.returncode == 0, done.stderr + done.stdout
    after = runs(tracker)
    assert after.keys() == before.keys()
    assert count(home, "SELECT count(*) FROM metrics WHERE key = 'train/loss'") == trained
    assert count(home, "SELECT count(*) FROM metrics WHERE key = 'test/accuracy'") == 2 * len(SEEDS)
    for run in after.values():
        assert ("test/accuracy" in run.metrics) == run.final
        if run.final:
            assert run.metrics["test/count"] == 4 * COUNTS["test"]
            answers = Answers.read(tracker.artifacts.download(run.run_id, FOLDER, tmp_path / run.run_id))
            assert answers.right.mean() == pytest.approx(run.metrics["test/accuracy"])
            assert answers.data_fingerprint == data.fingerprint

    rows = json.loads(read("leaderboard", "finals", "--json"))["rows"]
    for row in rows:
        tests = [run.metrics["test/accuracy"] for run in after.values() if run.run_id in row["test_run_ids"]]
        assert row["test"] == pytest.approx(sum(tests) / len(SEEDS)) and row["test_ci"] is not None
        assert (row["protocol"], row["test_seeds"], row["seeds"]) == ("trainval-final", list(SEEDS), [0])
        assert (row["val_from"], row["subset"], row["data_warnings"]) == ("as given", False, [])
    assert sum(row["champion"] for row in rows) == 1

    found = json.loads(read("compare", "finals", "1", "2", "--json"))
    assert found["mean"] == pytest.approx(rows[0]["test"] - rows[1]["test"])
    assert found["over_images"]["mean"] == pytest.approx(found["mean"]) == found["over_seeds"]["mean"]
    assert found["num_images"] == 4 * COUNTS["test"] and found["seeds"] == list(SEEDS)
    shown = read("compare", "finals", "champion", rows[1]["config_id"])
    assert "paired t over 3 seeds" in shown and "paired bootstrap over 16 images" in shown and "McNemar" in shown

    read("pull", "finals", "--to", str(tmp_path / "champion"))
    manifest = read_bundle(tmp_path / "champion").manifest
    assert (manifest.protocol, manifest.trial.train_splits, manifest.seeds) == (
        "trainval-final",
        ("train", "val"),
        (0,),
    )
    assert "Protocol: trainval-final, trained on train and val" in (tmp_path / "champion" / "README.md").read_text()
