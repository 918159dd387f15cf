"""A method of each role through the real search: Ray Tune, Ray Train, MLflow, bundles, one final cohort of all."""

import json
from pathlib import Path

from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from tests.e2e.tools import draw_images, utuning_here, write_space
from utuning.bundles.bundle import read_bundle
from utuning.tuners import TUNERS

METHODS = {
    "beside": [{"method": "p_prompt", "ops": ["block"], "num_tokens": 2}],
    "instead": [{"method": "prefix_tuning", "num_tokens": 2}],
    "inside": [{"method": "lora", "lora_rank": 2}],
    "tokens": [{"method": "vpt_deep", "num_tokens": 2}],
    "side": [{"method": "bypass", "bottleneck_dim": 2}],
    "weights": [{"method": "bitfit"}],
    "head": [{"method": "mlp_head"}],
}


def test_every_role_is_searched_tracked_and_scored(tmp_path: Path) -> None:
    assert set(METHODS) == {row.role for row in TUNERS.values()}
    baselines = [{"tuners": tuners, "train": {"epochs": 1}} for tuners in METHODS.values()]
    images = draw_images(tmp_path / "images")
    space = write_space(tmp_path / "roles.yaml", images, baselines=baselines, budget={"num_trials": 0})
    done = utuning_here(tmp_path / "runs", "search", str(space), "--num-workers", "1")
    assert done.returncode == 0, done.stderr + done.stdout

    workspace = Workspace(tmp_path / "runs")
    tracker = Tracker.open(workspace.tracking_uri, workspace.artifacts)
    runs = tracker.runs("roles")
    assert {run.trial.method for run in runs} == {tuners[0]["method"] for tuners in METHODS.values()}
    assert {run.outcome for run in runs} == {"completed"}
    # The baselines' bundles were read back, and all of them scored on test as members of one cohort.
    assert all(run.metrics["test/count"] == 16 for run in runs)

    pulled = utuning_here(tmp_path / "runs", "pull", "roles", "--to", str(tmp_path / "champion"))
    assert pulled.returncode == 0, pulled.stderr
    picture = next((images / "test").rglob("*.jpg"))
    told = utuning_here(tmp_path / "nowhere", "predict", str(tmp_path / "champion"), str(picture), "--json")
    assert len(json.loads(told.stdout)[0]["classes"]) == 4
    assert read_bundle(tmp_path / "champion").manifest.trial.trial_id in {run.trial.trial_id for run in runs}
