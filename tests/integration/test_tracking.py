"""Runs of a search in a real MLflow store."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.results.answers import FOLDER, Answers
from pipelines.tracking.artifacts import BUNDLE
from pipelines.tracking.records import flat
from pipelines.tracking.store import safe
from pipelines.tracking.tracker import Tracker
from tests.tools import adapter, train, trial_of
from utuning.configs import TunerConfig
from utuning.errors import TrackingError

TRIAL = trial_of(
    adapter("attn", "mlp", depths=(0, 11), bottleneck_dim=16),
    TunerConfig(method="prompt", settings={"num_tokens": 4}),
    train=train(lr=3e-3),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "deep"


@pytest.fixture(scope="module")
def tracker(store: Path) -> Tracker:
    return Tracker.open(f"sqlite:///{store}/mlflow.db", store / "artifacts")


def reopened(tracker: Tracker) -> Tracker:
    return Tracker.open(tracker.uri)


def start(tracker: Tracker, space: str) -> str:
    return tracker.start_search(space, search_id="s1", params={"budget.trials": 6}, tags={"commit": "abc"})


def history(tracker: Tracker, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in tracker.client.get_metric_history(run_id, key)]


def test_a_search_from_its_start_to_its_end(tracker: Tracker, store: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    parent = start(tracker, "whole")
    child = tracker.start_trial(parent, TRIAL, {"commit": "abc"})
    for epoch in (1, 2):
        tracker.log_epoch(child, epoch, {"train/loss": 1.0 / epoch, "val/accuracy": 0.3 * epoch})
    tracker.finish_trial(
        child,
        status="FINISHED",
        outcome="completed",
        metrics={"val/accuracy": 0.6, "train_time_s": 2.5},
        bundle=tmp_path / "bundle",
        error=None,
    )
    tracker.log_test(child, {"test/accuracy": 0.55, "test/count": 100})
    (tmp_path / "board.md").write_text("| a |")
    tracker.artifacts.log(parent, tmp_path / "board.md")
    tracker.finish_search(parent, "FINISHED", {"val/accuracy": 0.6}, {"champion": child})

    run = tracker.client.get_run(child)
    assert run.info.run_name == TRIAL.name and run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent
    expected = {"trial_id": TRIAL.trial_id, "config_id": TRIAL.config_id, "search_id": "s1", "method": TRIAL.method}
    expected |= {"protocol": "v1", "data_fingerprint": "d1", "backbone_fingerprint": "b1", "commit": "abc"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.params == flat(TRIAL)
    assert history(tracker, child, "val/accuracy") == [(1, 0.3), (2, 0.6)], "the final value is there already"
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(store / "artifacts" / "whole")
    assert [entry.path for entry in tracker.client.list_artifacts(child, "bundle")] == ["bundle/manifest.json"]
    assert [entry.path for entry in tracker.client.list_artifacts(parent)] == ["board.md"]

    (record,) = tracker.runs("whole")
    assert (record.run_id, record.search_id, record.outcome, record.trial) == (child, "s1", "completed", TRIAL)
    assert record.metrics["test/accuracy"] == 0.55 and record.metrics["epoch"] == 2


def test_a_resumed_search_doubles_nothing(tracker: Tracker) -> None:
    parent = start(tracker, "resumed")
    child = tracker.start_trial(parent, TRIAL)
    tracker.log_epoch(child, 1, {"val/accuracy": 0.3})
    tracker.finish_trial(child, status="KILLED", outcome="stopped", metrics={}, error="killed")
    tracker.finish_search(parent, "KILLED", {}, {})

    again = reopened(tracker)
    assert start(again, "resumed") == parent
    assert again.start_trial(parent, TRIAL) == child
    assert {again.client.get_run(run_id).info.status for run_id in (parent, child)} == {"RUNNING"}
    for epoch, val in ((1, 0.31), (2, 0.5), (2, 0.51)):
        again.log_epoch(child, epoch, {"val/accuracy": val})
    assert history(again, child, "val/accuracy") == [(1, 0.3), (2, 0.5)]
    (record,) = again.runs("resumed")
    assert record.outcome == "running" and "error" not in again.client.get_run(child).data.tags


def test_the_search_to_go_on_with_is_the_newest_unfinished_one_of_the_same_space(tracker: Tracker) -> None:
    for search_id, status, space_digest in (
        ("old", "KILLED", "x"),
        ("done", "FINISHED", "x"),
        ("other", "KILLED", "y"),
    ):
        parent = tracker.start_search("cut", search_id=search_id, params={}, tags={"space_digest": space_digest})
        tracker.finish_search(parent, status, {}, {})
    assert tracker.unfinished_search("cut", "x") == "old"
    with pytest.raises(TrackingError, match=r"no unfinished search of 'cut'.*done \(finished\)"):
        tracker.unfinished_search("cut", "z")


def test_a_bundle_comes_back_from_its_run(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    child = tracker.start_trial(start(tracker, "bundled"), TRIAL)
    with pytest.raises(TrackingError, match="could not copy the bundle"):
        tracker.artifacts.download(child, BUNDLE, tmp_path / "none")
    tracker.finish_trial(child, status="FINISHED", outcome="completed", metrics={}, bundle=tmp_path / "bundle")
    assert (tracker.artifacts.download(child, BUNDLE, tmp_path / "got") / "manifest.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "got"]


def test_seeds_are_runs_of_their_own_and_a_second_search_too(tracker: Tracker) -> None:
    parent = start(tracker, "seeds")
    other = tracker.start_search("seeds", search_id="s2", params={}, tags={})
    second = replace(TRIAL, train=replace(TRIAL.train, seed=1))
    created = {tracker.start_trial(p, t) for p, t in ((parent, TRIAL), (parent, second), (other, TRIAL))}
    assert len(created) == 3 and {record.run_id for record in tracker.runs("seeds")} == created


def test_a_diverged_metric_is_missing_and_marked(tracker: Tracker) -> None:
    child = tracker.start_trial(start(tracker, "diverged"), TRIAL)
    tracker.log_epoch(child, 1, {"train/loss": float("nan"), "val/loss": float("inf"), "val/accuracy": 0.1})
    run = tracker.client.get_run(child)
    assert run.data.metrics == {"val/accuracy": 0.1, "epoch": 1.0} and run.data.tags["diverged"] == "true"


def test_a_failure_keeps_the_end_of_its_error(tracker: Tracker) -> None:
    child = tracker.start_trial(start(tracker, "failed"), TRIAL)
    tracker.finish_trial(child, status="FAILED", outcome="failed", metrics={}, error="x" * 20_000 + "out of memory")
    run = tracker.client.get_run(child)
    assert run.data.tags["error"].endswith("out of memory") and run.data.tags["outcome"] == "failed"


def test_test_is_measured_once(tracker: Tracker) -> None:
    child = tracker.start_trial(start(tracker, "tested"), TRIAL)
    tracker.log_test(child, {"test/accuracy": 0.5})
    with pytest.raises(TrackingError, match="test/accuracy already"):
        tracker.log_test(child, {"test/accuracy": 0.6})
    assert history(tracker, child, "test/accuracy") == [(0, 0.5)]


def test_a_final_is_a_run_of_its_own_that_keeps_its_answers(tracker: Tracker, tmp_path: Path) -> None:
    parent = start(tracker, "finals")
    child = tracker.start_trial(
        parent, TRIAL, {"data_val": "as given", "data_subset": "true", "data_warnings": '["w"]'}
    )
    final = tracker.start_trial(parent, TRIAL, kind="final")
    assert final != child and tracker.start_trial(parent, TRIAL, kind="final") == final
    records = {record.run_id: record for record in tracker.runs("finals")}
    assert {run_id: record.final for run_id, record in records.items()} == {child: False, final: True}
    said = records[child]
    assert (said.val_from, said.subset, said.data_warnings) == ("as given", True, ("w",))

    assert not tracker.artifacts.has(final, FOLDER)
    answers = Answers(data_fingerprint="d1", right=np.array([True, False, True]))
    tracker.artifacts.log(final, answers.write(tmp_path), FOLDER)
    assert tracker.artifacts.has(final, FOLDER)
    again = Answers.read(tracker.artifacts.download(final, FOLDER, tmp_path / "got"))
    assert again.right.tolist() == [True, False, True]


def test_an_unknown_space_lists_those_there_are(tracker: Tracker) -> None:
    start(tracker, "grocery")
    with pytest.raises(TrackingError, match=r"no search of 'grocry'.*did you mean 'grocery'\?"):
        tracker.runs("grocry")


def test_a_deleted_experiment_is_said(tracker: Tracker) -> None:
    experiment = tracker.client.create_experiment("gone")
    tracker.client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match=f"was deleted; restore it with .*{experiment}"):
        start(tracker, "gone")


def test_a_run_that_is_not_there_is_said(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="could not start the run of trial"):
        tracker.start_trial("0" * 32, TRIAL)


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "./a/b", ""])
def test_a_folder_is_no_store(uri: str) -> None:
    with pytest.raises(TrackingError, match="allowed: sqlite:///"):
        Tracker.open(uri)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_unusable_store_is_said_soon(tmp_path: Path, silent_server: str) -> None:
    (tmp_path / "file").write_text("no database, but long enough to look at: " + "x" * 4096)
    reasons = {
        f"sqlite:///{tmp_path}/file/mlflow.db": "is not a folder",
        f"sqlite:///{tmp_path}/file": "file is not a database",
        "http://user:secret@127.0.0.1:9": "no answer",
        silent_server: "no answer",
        "nonsense://host": "unsupported URI",
        "postgresql://user:secret@127.0.0.1:9/mlflow": "postgresql://user@127.0.0.1:9/mlflow",
    }
    for uri, reason in reasons.items():
        begin = time.monotonic()
        with pytest.raises(TrackingError, match="cannot be used") as caught:
            Tracker.open(uri)
        assert time.monotonic() - begin < 10
        assert reason in str(caught.value) and "secret" not in str(caught.value)
    assert (tmp_path / "file").read_text().startswith("no database"), "what was there stays as it is"


def test_opening_a_store_is_silent_and_importing_is_quick(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pipelines.tracking.tracker import Tracker\nassert 'mlflow' not in sys.modules\n"
        f"tracker = Tracker.open('sqlite:///{tmp_path}/mlflow.db')\n"
        "tracker.finish_search(tracker.start_search('a', search_id='s', params={}, tags={}), 'FINISHED', {}, {})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert not (tmp_path / "artifacts").exists(), "folders appear with their first artifact"


def test_passwords_stay_out_of_messages() -> None:
    assert safe("postgresql://me:secret@host/db") == "postgresql://me@host/db"
    assert safe("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_params_are_flat_and_short() -> None:
    params = flat(TRIAL)
    assert params["train.lr"] == "0.003" and params["tuners.0.ops"] == "attn+mlp"
    assert params["tuners.0.depths"] == "0,11" and params["tuners.0.bottleneck_dim"] == "16"
    assert params["tuners.1.num_tokens"] == "4" and params["backbone"] == "vit"
    assert json.dumps(params)
