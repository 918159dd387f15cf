"""Tracking stores that several files share: an embedded one, and one behind a real server that proxies artifacts."""

from collections.abc import Iterator

import pytest

from pipelines.tracking.tracker import Tracker
from tests.registered import mlflow


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tmp_path_factory.mktemp("store")
    return Tracker.open(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("server")
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with mlflow(folder, "server", *places) as uri:
        yield Tracker.open(uri)
