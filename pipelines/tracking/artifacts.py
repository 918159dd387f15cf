"""Files and plain values that are stored with runs."""

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.tracking.store import in_words

BUNDLE = "bundle"
"""The folder of a run's artifacts that holds its bundle."""


class Artifacts:
    """The artifacts of one tracking store's runs. Every failure of the store is a `TrackingError`."""

    def __init__(self, client: Any, uri: str) -> None:
        self._client = client
        self._uri = uri

    def log(self, run_id: str, path: Path, to: str | None = None) -> None:
        """Store one file, or the contents of a folder, with a run, in the folder `to` of its artifacts."""
        with in_words(f"store {str(path)!r}"):
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(run_id, str(path), to)

    def has(self, run_id: str, folder: str) -> bool:
        """Whether a run has files in a folder of its artifacts."""
        with in_words(f"list the artifacts of run {run_id}"):
            return bool(self._client.list_artifacts(run_id, folder))

    def download(self, run_id: str, folder: str, to: Path) -> Path:
        """Copy a folder of a run's artifacts to the folder `to`, which appears complete or not at all."""
        with in_words(f"copy the {folder} of run {run_id} to {str(to)!r}"):
            self.fetch(f"{self._client.get_run(run_id).info.artifact_uri}/{folder}", to)
        return to

    def fetch(self, source: str, to: Path, check: Callable[[Path], object] = lambda path: None) -> None:
        """Copy an artifact folder by its URI to a folder that is new or empty; nothing half-written stays.

        What `check` raises of the copy leaves nothing either. What MLflow raises is left to the caller's `in_words`.
        """
        from mlflow.artifacts import download_artifacts

        partial = to.absolute().parent / f".{to.name}.partial-{uuid.uuid4().hex[:12]}"
        try:
            partial.mkdir(parents=True)
            got = download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=self._uri)
            check(Path(got))
            Path(got).rename(to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def keep(self, run_id: str, name: str, values: Mapping[str, Any]) -> None:
        """Store plain values with a run, as a JSON file."""
        with in_words(f"store {name}"):
            self._client.log_dict(run_id, dict(values), name)

    def kept(self, run_id: str, name: str) -> Any:
        """Read the values of a JSON file that `keep` stored; None if there is none. Raises ValueError for no JSON."""
        with in_words(f"read {name} of run {run_id}"), tempfile.TemporaryDirectory() as folder:
            if name not in {file.path for file in self._client.list_artifacts(run_id)}:
                return None
            return json.loads(Path(self._client.download_artifacts(run_id, name, folder)).read_text())
