"""Champions in MLflow's model registry: a version is a run's bundle, the alias `champion` says which one to deploy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.store import in_words
from pipelines.tracking import Tracker
from utuning.errors import TrackingError, nearest

CHAMPION = "champion"


@dataclass(frozen=True, kw_only=True)
class ChampionRecord:
    """The version under the alias `champion`; `val` is its tag `val`, None where it has none."""

    version: int
    run_id: str
    tags: Mapping[str, str]
    val: float | None


class Registry:
    """The registered models of one tracking store. Every failure of the store is a `TrackingError`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._client = tracker.client

    def promote(self, model_name: str, run_id: str, *, tags: Mapping[str, str]) -> int:
        """Make the run's bundle the champion and give its version; a run has one version, however often this is called.

        Raises:
            TrackingError: the run has no bundle.
        """
        with in_words(f"register {model_name!r}"):
            if not self._client.list_artifacts(run_id, "bundle"):
                raise TrackingError(f"run {run_id} has no bundle to register; promote a run that finished")
            if model_name not in self._names():
                self._client.create_registered_model(model_name)
            version = self._version_of(model_name, run_id, tags)
            self._client.set_registered_model_alias(model_name, CHAMPION, str(version))
            return version

    def champion(self, model_name: str) -> ChampionRecord | None:
        """Give the champion, or None where there is no such model or no champion yet."""
        with in_words(f"read the champion of {model_name!r}"):
            if model_name not in self._names() or CHAMPION not in self.aliases(model_name):
                return None
            found = self._client.get_model_version_by_alias(model_name, CHAMPION)
            val = float(found.tags["val"]) if "val" in found.tags else None
            return ChampionRecord(version=int(found.version), run_id=found.run_id, tags=dict(found.tags), val=val)

    def aliases(self, model_name: str) -> dict[str, int]:
        """Map the aliases of a model to their versions.

        Raises:
            TrackingError: there is no such model; the registered ones get listed.
        """
        with in_words(f"read the aliases of {model_name!r}"):
            names = self._names()
            if model_name not in names:
                raise TrackingError(_unknown("model", model_name, names))
            found = self._client.get_registered_model(model_name).aliases
            return {alias: int(version) for alias, version in found.items()}

    def download(self, model_name: str, *, alias: str = CHAMPION, to: Path) -> Path:
        """Copy the bundle under an alias to the folder `to`, which appears complete or not at all.

        Raises:
            TrackingError: no such model or alias, `to` holds something already, or the copy failed.
        """
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise TrackingError(f"{str(to)!r} exists and is not an empty folder; name a new folder, or remove it")
        aliases = self.aliases(model_name)
        if alias not in aliases:
            raise TrackingError(_unknown(f"alias of {model_name!r}", alias, aliases))
        with in_words(f"copy {model_name!r} to {str(to)!r}"):
            found = self._client.get_model_version_by_alias(model_name, alias)
            self._tracker.fetch(found.source, to)
        return to

    def _version_of(self, model_name: str, run_id: str, tags: Mapping[str, str]) -> int:
        for known in self._client.search_model_versions(f"name = '{model_name}'"):
            if known.run_id == run_id:
                for key, value in tags.items():
                    self._client.set_model_version_tag(model_name, str(known.version), key, value)
                return int(known.version)
        source = self._bundle_uri(run_id)
        return int(self._client.create_model_version(model_name, source, run_id, tags=dict(tags)).version)

    def _bundle_uri(self, run_id: str) -> str:
        return f"{self._client.get_run(run_id).info.artifact_uri.rstrip('/')}/bundle"

    def _names(self) -> list[str]:
        names: list[str] = []
        page: Any = None
        while page is None or page.token:
            page = self._client.search_registered_models(page_token=page.token if page else None)
            names += [model.name for model in page]
        return names


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = nearest(given, names) if names else "there is none yet"
    return f"no {kind} is called {given!r}; {hint}; `utuning search` registers the champion of a search"
