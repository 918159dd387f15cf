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
from pipelines.references import parse_reference
from pipelines.registry import Registry
from pipelines.tracking import Tracker
from tests.bundles import METRICS, NAMES, trained, trial
from tests.tools import tiny_backbone, train
from utuning.bundles.bundle import Bundle, read_bundle, save_bundle
from utuning.errors import BundleError, TrackingError

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


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("store")
    return Tracker.open(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")


@pytest.fixture(params=["embedded", "served"])
def tracker(request: pytest.FixtureRequest) -> Tracker:
    served = request.param == "served"
    return Tracker.open(request.getfixturevalue("server")) if served else request.getfixturevalue("embedded")


def finished_run(tracker: Tracker, folder: Path, seed: int, bundle: bool = True) -> str:
    """Track one trial of a head alone, with its bundle."""
    backbone = tiny_backbone()
    config = trial(backbone, train=train(seed=seed))
    made = save_bundle(
        folder, trained(backbone, config), backbone=backbone, trial=config, class_names=NAMES, metrics=METRICS,
        versions={},
    )  # fmt: skip
    parent = tracker.start_search("space", search_id="s1", params={"a": 1}, tags={})
    run_id = tracker.start_trial(parent, config)
    tracker.log_epoch(run_id, 1, {"val/accuracy": 0.6})
    tracker.finish_trial(
        run_id, status="FINISHED", outcome="completed", metrics={}, bundle=made if bundle else None, error=None
    )
    return run_id


def pull(registry: Registry, text: str, to: Path) -> Bundle:
    return read_bundle(registry.fetch(registry.resolve(parse_reference(text)), to))


def seed_of(bundle: Bundle) -> int:
    return bundle.manifest.trial.train.seed


def test_promote_pull_and_promote_again(tracker: Tracker, tmp_path: Path) -> None:
    registry = Registry(tracker)
    assert registry.champion(NAME) is None
    first = finished_run(tracker, tmp_path / "work", 0)
    assert registry.promote(NAME, first, tags=TAGS) == 1
    assert registry.promote(NAME, first, tags=TAGS) == 1, "a run has one version"
    champion = registry.champion(NAME)
    assert champion is not None and (champion.version, champion.run_id, champion.val) == (1, first, 0.6)
    known = Candidate.from_tags(champion.run_id, champion.tags)
    assert not decide(Candidate.from_tags("other", TAGS), known).promote

    assert seed_of(pull(registry, NAME, tmp_path / "deep" / "pulled")) == 0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["pulled"]

    second = finished_run(tracker, tmp_path / "work", 1)
    assert registry.promote(NAME, second, tags={**TAGS, "val": "0.7"}) == 2
    tracker.client.set_registered_model_alias(NAME, "previous", "1")
    assert registry.aliases(NAME) == {"champion": 2, "candidate": 2, "former": 1, "previous": 1}
    (tmp_path / "empty").mkdir()
    names = {f"{NAME}@previous": 0, "beetles@previous": 0, "beetles/1": 0, "beetles/2": 1, "beetles": 1, second: 1}
    for place, (text, seed) in enumerate(names.items()):
        assert seed_of(pull(registry, text, tmp_path / (str(place) if place else "empty"))) == seed


def test_what_is_unknown_is_listed(embedded: Tracker, tmp_path: Path) -> None:
    registry = Registry(embedded)
    registry.promote(NAME, finished_run(embedded, tmp_path / "work", 2), tags=TAGS)
    for text, says in (
        ("utuning-beetle", f"no model is called 'utuning-beetle'; did you mean '{NAME}'"),
        ("beetles@chmpion", r"no alias .* is called 'chmpion'; did you mean 'champion'"),
        ("beetles/99", r"'utuning-beetles' has no version 99; there are: .*\d"),
        ("0" * 32, f"has the id {'0' * 32}; searched were: space"),
    ):
        with pytest.raises(TrackingError, match=says):
            registry.resolve(parse_reference(text))


def test_a_run_without_a_bundle_is_not_promoted(embedded: Tracker, tmp_path: Path) -> None:
    run_id = finished_run(embedded, tmp_path, 3, bundle=False)
    with pytest.raises(TrackingError, match="has no bundle"):
        Registry(embedded).promote("utuning-empty", run_id, tags=TAGS)
    with pytest.raises(TrackingError, match="no model is called 'utuning-empty'"):
        Registry(embedded).aliases("utuning-empty")


def test_nothing_is_overwritten_or_half_written(embedded: Tracker, tmp_path: Path) -> None:
    registry = Registry(embedded)
    registry.promote(NAME, finished_run(embedded, tmp_path / "work", 4), tags=TAGS)
    (tmp_path / "mine").write_text("keep")
    for taken in (tmp_path / "work", tmp_path / "mine"):
        with pytest.raises(TrackingError, match="exists and is not an empty folder"):
            pull(registry, NAME, taken)
    with pytest.raises(TrackingError, match="could not copy"):
        pull(registry, NAME, tmp_path / "mine" / "pulled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "work"]
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_bundle_that_is_gone_or_altered_leaves_nothing(embedded: Tracker, tmp_path: Path) -> None:
    registry = Registry(embedded)
    registry.promote(NAME, finished_run(embedded, tmp_path / "work", 5), tags=TAGS)
    bundle = Path(registry.resolve(parse_reference(NAME)).source.removeprefix("file://"))
    tensors = bundle / "tuner.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"artifacts/bundle/tuner\.safetensors was altered or cut short"):
        pull(registry, NAME, tmp_path / "to" / "pulled")
    bundle.rename(tmp_path / "elsewhere")
    with pytest.raises(TrackingError, match="could not copy"):
        pull(registry, NAME, tmp_path / "to" / "pulled")
    assert not list((tmp_path / "to").iterdir())
