"""Champions in MLflow's model registry: a version is a run's bundle, the alias `champion` says which one to deploy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.references import CHAMPION, PREFIX, Reference, registered_name
from pipelines.store import in_words
from pipelines.tracking import Tracker
from utuning.bundles.bundle import read_bundle
from utuning.errors import BundleError, TrackingError, nearest


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The bundle that a reference means at this moment.

    `source` is the URI of the bundle's folder; `version` is None where a run was named.
    """

    model_name: str
    version: int | None
    run_id: str
    source: str


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

    def resolve(self, reference: Reference) -> Resolved:
        """Find out which bundle a reference means; an alias may mean another one a moment later.

        Raises:
            TrackingError: no such model, alias, version or run; those there are get listed.
        """
        with in_words(f"look for {str(reference)!r}"):
            if reference.run_id is not None:
                return self._resolve_run(reference.run_id)
            assert reference.name is not None
            name = registered_name(reference.name)
            version = self._number(name, reference)
            found = self._client.get_model_version(name, str(version))
            return Resolved(model_name=name, version=version, run_id=found.run_id, source=found.source)

    def fetch(self, resolved: Resolved, to: Path) -> Path:
        """Copy a bundle to the folder `to`, checked; it appears complete or not at all.

        Raises:
            TrackingError: `to` holds something already, or the copy failed.
            BundleError: what lies there is no sound bundle.
        """
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise TrackingError(f"{str(to)!r} exists and is not an empty folder; name a new folder, or remove it")
        with in_words(f"copy the bundle of {resolved.model_name!r} to {str(to)!r}"):
            self._tracker.fetch(resolved.source, to, check=lambda copy: _check(copy, resolved.source))
        return to

    def _number(self, name: str, reference: Reference) -> int:
        aliases = self.aliases(name)
        if reference.alias is not None:
            if reference.alias not in aliases:
                raise TrackingError(_unknown(f"alias of {name!r}", reference.alias, aliases))
            return aliases[reference.alias]
        known = sorted(int(found.version) for found in self._versions(name))
        if reference.version not in known:
            raise TrackingError(
                f"{name!r} has no version {reference.version}; there are: {', '.join(map(str, known)) or 'none'}; "
                "`utuning models` lists them"
            )
        return reference.version

    def _resolve_run(self, run_id: str) -> Resolved:
        run = self._tracker.run(run_id)
        if "dataset" not in run.data.tags or not self._client.list_artifacts(run_id, "bundle"):
            raise TrackingError(
                f"run {run_id} has no bundle; allowed: the run of a trial that was trained; "
                "`utuning leaderboard SPACE --json` names them"
            )
        name = f"{PREFIX}{run.data.tags['dataset']}"
        return Resolved(model_name=name, version=None, run_id=run_id, source=self._bundle_uri(run_id))

    def _version_of(self, model_name: str, run_id: str, tags: Mapping[str, str]) -> int:
        for known in self._versions(model_name):
            if known.run_id == run_id:
                for key, value in tags.items():
                    self._client.set_model_version_tag(model_name, str(known.version), key, value)
                return int(known.version)
        source = self._bundle_uri(run_id)
        return int(self._client.create_model_version(model_name, source, run_id, tags=dict(tags)).version)

    def _versions(self, model_name: str) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{model_name}'"))

    def _bundle_uri(self, run_id: str) -> str:
        return f"{self._client.get_run(run_id).info.artifact_uri.rstrip('/')}/bundle"

    def _names(self) -> list[str]:
        names: list[str] = []
        page: Any = None
        while page is None or page.token:
            page = self._client.search_registered_models(page_token=page.token if page else None)
            names += [model.name for model in page]
        return names


def _check(copy: Path, source: str) -> None:
    try:
        read_bundle(copy)
    except BundleError as error:
        raise BundleError(str(error).replace(str(copy), source)) from error


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = nearest(given, names) if names else "there is none yet"
    return f"no {kind} is called {given!r}; {hint}; `utuning search` registers the champion of a search"
