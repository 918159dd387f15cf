"""The spaces of the known data sets: each smoke tier from the official archives' layout to a pulled champion."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.registry.references import parse_reference
from pipelines.results.compare import pull_bundle, read_rows
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace
from tests.archives import ARCHIVES
from tests.e2e.tools import environment, utuning_here
from utuning.data.shards import open_dataset

NAMES = sorted(ARCHIVES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spaces")
    command = [sys.executable, "-m", "tests.e2e.smoke_spaces", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(root / "runs"), timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.fixture
def tracker(root: Path) -> Tracker:
    workspace = Workspace(root / "runs")
    return Tracker.open(workspace.tracking_uri, workspace.artifacts)


@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_tier_ends_in_a_champion(name: str, root: Path, tracker: Tracker, tmp_path: Path) -> None:
    rows = read_rows(tracker, f"{name}-smoke")
    assert [row.place for row in rows] == [1, 2, 3]
    assert {row.outcome for row in rows} == {"completed"}
    assert {row.weights for row in rows} == {"none"}
    (champion,) = (row for row in rows if row.champion)
    assert champion.place == 1 and champion.test is not None
    bundle = pull_bundle(tracker, parse_reference(f"{name}-smoke@champion"), tmp_path / "champion")
    info = open_dataset(root / "prepared" / name)
    assert bundle.manifest.class_names == info.class_names
    assert (bundle.manifest.data_fingerprint, bundle.manifest.protocol) == (info.fingerprint, "vpt")


def run(home: Path, *arguments: str) -> str:
    """The command line in this process: what it prints."""
    done = utuning_here(home, *arguments)
    assert bool(done.returncode) == ("error:" in done.stderr)
    return " ".join((done.stdout or done.stderr).split())


def test_a_place_is_scored_again_from_its_bundle(root: Path) -> None:
    data = str(root / "prepared" / "flowers102")
    said = run(root / "runs", "reproduce", "flowers102-smoke:1", "--data", data)
    assert said.count(": equal, on") == 2, "val and test"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("cub200-smoke:9", "places 1 to 3, not 9"),
        ("0123456789ab", "no finished trial has the id"),
        ("cub200-smoke:1", "by --data FOLDER"),
    ],
)
def test_rows_that_cannot_be_reproduced_are_named(root: Path, row: str, says: str) -> None:
    assert says in run(root / "runs", "reproduce", row)


def test_published_numbers_stand_on_no_smoke_page(root: Path) -> None:
    page = run(root / "runs", "leaderboard", "cub200-smoke", "--json")
    assert "published" not in json.loads(page)


def test_a_trial_is_trained_again_and_is_equal(root: Path, tracker: Tracker) -> None:
    champion = read_rows(tracker, "cub200-smoke")[0]
    runs = tracker.runs("cub200-smoke")
    (trial_id,) = (run.trial.trial_id for run in runs if run.run_id == champion.run_ids[0])
    data = str(root / "prepared" / "cub200")
    done = utuning_here(root / "runs", "reproduce", trial_id, "--retrain", "--data", data)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("accuracy stated") == 2 and ": equal, on 9 images" in done.stdout
    # One worker before, as many as the machine has now: sums are rounded in another order.
    gaps = [float(gap) for gap in re.findall(r"differs by ([-+.e\d]+)", done.stdout)]
    assert done.stdout.count("loss stated") == 2 and all(gap < 1e-5 for gap in gaps)
    assert len(tracker.runs("cub200-smoke")) == len(runs), "the space's own store is as it was"
