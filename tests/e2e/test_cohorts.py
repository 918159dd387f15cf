"""Live cohorts through the command line: members that fail alone, populations, and isolated trials as a cross-check."""

from pathlib import Path

import pytest

from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from tests.e2e.tools import draw_images, utuning_here, write_space

MIXED = [
    {"tuners": [], "train": {"lr": 1e38}},  # its loss is no number after a step
    {"tuners": [{"method": "full"}], "train": {"lr": 1e-3}},
    {"tuners": [{"method": "vpt_deep", "num_tokens": 2}]},
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "images")


def search(folder: Path, images: Path, *flags: str, **changes: object) -> dict[str, RunRecord]:
    """The runs of a small search, by their trials."""
    folder.mkdir()
    done = utuning_here(folder, "search", str(write_space(folder / "live.yaml", images, **changes)), *flags)
    assert done.returncode == 0, done.stderr + done.stdout
    workspace = Workspace(folder)
    found = Tracker.open(workspace.tracking_uri, workspace.artifacts).runs("live")
    assert len(found) == len({run.trial.trial_id for run in found})
    return {run.trial.trial_id: run for run in found}


def test_isolated_trials_give_what_members_of_one_cohort_give(images: Path, tmp_path: Path) -> None:
    """Cached states, mixed families and one member that fails; the others' metrics are those of trials alone.

    Those alone have a worker each, two at a time; those together two workers.
    """
    space = {"baselines": MIXED, "budget": {"num_trials": 0}, "views": 2}
    together = search(tmp_path / "together", images, **space)
    apart = search(tmp_path / "apart", images, "--isolated", "--num-workers", "1", **space)
    assert together.keys() == apart.keys()
    for trial_id, run in together.items():
        other = apart[trial_id]
        assert run.outcome == other.outcome == ("failed" if run.trial.train.lr == 1e38 else "completed")
        if run.outcome == "completed":
            for key in ("train/loss", "val/loss", "val/accuracy"):
                assert run.metrics[key] == pytest.approx(other.metrics[key], abs=1e-4), (run.trial.name, key)
    assert max(run.metrics.get("cohort_members", 0) for run in together.values()) > 1
    assert {run.metrics.get("cohort_members", 1) for run in apart.values()} == {1}


def test_a_population_goes_on_from_its_best(images: Path, tmp_path: Path) -> None:
    runs = search(
        tmp_path / "population",
        images,
        "--num-workers",
        "1",
        train={"lr": {"loguniform": [1e-5, 3e-2]}, "epochs": 2, "batch_size": 8},
        baselines=[],
        budget={"num_trials": 4, "scheduler": "pbt"},
    )
    assert {run.outcome for run in runs.values()} == {"completed"}
    assert all(run.metrics["epoch"] == 2 for run in runs.values())
