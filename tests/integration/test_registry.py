"""Champions in a real model registry: on sqlite, and behind a real tracking server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.promotion import Candidate, decide
from pipelines.registry import Registry
from pipelines.tracking import Tracker
from tests.tools import train, trial_of
from utuning.errors import TrackingError

NAME = "utuning-beetles"
TAGS = {"val": "0.6", "protocol": "v1", "data_fingerprint": "d1", "config_id": "c1", "trainable_params": "9"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"{sys.executable} -m mlflow server --host 127.0.0.1 --port {port} --workers 1"
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command.split(), *places],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    try:
        _wait_for(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module", params=["sqlite", "http"])
def tracker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    if request.param == "http":
        return Tracker.open(request.getfixturevalue("server"))
    folder = tmp_path_factory.mktemp("store")
    return Tracker.open(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")


def finished_run(tracker: Tracker, folder: Path, seed: int, bundle: bool = True) -> str:
    """Track one trial whose bundle holds its seed."""
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(f'{{"seed": {seed}}}')
    (folder / "deep" / "weights").write_bytes(bytes(1000))
    parent = tracker.start_search("space", search_id="s1", params={"a": 1}, tags={})
    run_id = tracker.start_trial(parent, trial_of(train=train(seed=seed)))
    tracker.log_epoch(run_id, 1, {"val/accuracy": 0.6})
    tracker.finish_trial(
        run_id, status="FINISHED", outcome="completed", metrics={}, bundle=folder if bundle else None, error=None
    )
    return run_id


def test_promote_pull_and_promote_again(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    (tmp_path / "work").mkdir()
    assert registry.champion(NAME) is None
    first = finished_run(tracker, tmp_path / "work", 0)
    assert registry.promote(NAME, first, tags=TAGS) == 1
    assert registry.promote(NAME, first, tags=TAGS) == 1, "a run has one version"
    champion = registry.champion(NAME)
    assert champion is not None and (champion.version, champion.run_id, champion.val) == (1, first, 0.6)
    known = Candidate.from_tags(champion.run_id, champion.tags)
    assert not decide(Candidate.from_tags("other", TAGS), known).promote

    assert registry.download(NAME, to=tmp_path / "deep" / "pulled") == tmp_path / "deep" / "pulled"
    assert (tmp_path / "deep" / "pulled" / "manifest.json").read_text() == '{"seed": 0}'
    assert (tmp_path / "deep" / "pulled" / "deep" / "weights").stat().st_size == 1000
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["pulled"]

    second = finished_run(tracker, tmp_path / "work", 1)
    assert registry.promote(NAME, second, tags={**TAGS, "val": "0.7"}) == 2
    tracker.client.set_registered_model_alias(NAME, "previous", "1")
    assert registry.aliases(NAME) == {"champion": 2, "previous": 1}
    (tmp_path / "empty").mkdir()
    registry.download(NAME, alias="previous", to=tmp_path / "empty")
    assert (tmp_path / "empty" / "manifest.json").read_text() == '{"seed": 0}'


def test_what_is_unknown_is_listed(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    (tmp_path / "work").mkdir()
    registry.promote(NAME, finished_run(tracker, tmp_path / "work", 2), tags=TAGS)
    with pytest.raises(TrackingError, match=f"no model is called 'utuning-beetle'; did you mean '{NAME}'"):
        registry.download("utuning-beetle", to=tmp_path / "pulled")
    with pytest.raises(TrackingError, match=r"no alias .* is called 'chmpion'; did you mean 'champion'"):
        registry.download(NAME, alias="chmpion", to=tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_run_without_a_bundle_is_not_promoted(tracker: Tracker, tmp_path: Path) -> None:
    run_id = finished_run(tracker, tmp_path, 3, bundle=False)
    with pytest.raises(TrackingError, match="has no bundle"):
        Registry(tracker).promote("utuning-empty", run_id, tags=TAGS)
    with pytest.raises(TrackingError, match="no model is called 'utuning-empty'"):
        Registry(tracker).aliases("utuning-empty")


def test_nothing_is_overwritten_or_half_written(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    (tmp_path / "work").mkdir()
    registry.promote(NAME, finished_run(tracker, tmp_path / "work", 4), tags=TAGS)
    (tmp_path / "mine").write_text("keep")
    for taken in (tmp_path / "work", tmp_path / "mine"):
        with pytest.raises(TrackingError, match="exists and is not an empty folder"):
            registry.download(NAME, to=taken)
    with pytest.raises(TrackingError, match="could not copy"):
        registry.download(NAME, to=tmp_path / "mine" / "pulled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "work"]
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_bundle_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    tracker = Tracker.open(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts")
    (tmp_path / "work").mkdir()
    Registry(tracker).promote(NAME, finished_run(tracker, tmp_path / "work", 0), tags=TAGS)
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    with pytest.raises(TrackingError, match="could not copy"):
        Registry(tracker).download(NAME, to=tmp_path / "to" / "pulled")
    assert not list((tmp_path / "to").iterdir())
