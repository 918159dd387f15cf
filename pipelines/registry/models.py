"""Bundles in MLflow's model registry: a version is one run's bundle as an MLflow model, an alias says what it is for.

`champion` is what deploys, `former` the champion before it, `candidate` the best of the last search, whether it became
champion or not. All others are the users'.
"""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.registry.packing import BUNDLE, pack
from pipelines.registry.references import CHAMPION, PREFIX, Reference, registered_name
from pipelines.tracking.artifacts import BUNDLE as RUN_BUNDLE
from pipelines.tracking.store import in_words
from pipelines.tracking.tracker import Tracker
from utuning.bundles.bundle import Bundle, add_metrics, read_bundle
from utuning.errors import BundleError, TrackingError, nearest

CANDIDATE, FORMER = "candidate", "former"


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
class VersionRecord:
    """A version of a registered model, as the registry holds it; `created` is in ms since 1970."""

    model_name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    tags: Mapping[str, str]
    created: int

    @property
    def val(self) -> float | None:
        """What versions are compared by: the mean over the configuration's seeds. None where nobody noted it."""
        return self.number("val")

    def number(self, tag: str) -> float | None:
        """A tag that is a number, None where it is missing."""
        return float(self.tags[tag]) if tag in self.tags else None


class Registry:
    """The registered models of one tracking store. Every failure of the store is a `TrackingError`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._client = tracker.client

    def register(self, model_name: str, run_id: str, *, tags: Mapping[str, str]) -> int:
        """Make the run's bundle a version, and the candidate. A run has one version, however often this is called.

        What the run knows of test goes into the version's bundle.

        Raises:
            TrackingError: the run has no bundle.
        """
        with in_words(f"register {model_name!r}"):
            bundle = self._resolve_run(run_id)
            if model_name not in self.names():
                self._client.create_registered_model(model_name)
            version = self._known_version(model_name, run_id, tags) or self._new_version(model_name, bundle, tags)
            self.set_alias(model_name, CANDIDATE, version)
            return version

    def promote(self, model_name: str, run_id: str, *, tags: Mapping[str, str]) -> int:
        """Register the run's bundle, and make it the champion."""
        version = self.register(model_name, run_id, tags=tags)
        self.set_alias(model_name, CHAMPION, version)
        return version

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        """Let an alias mean a version. Where that is `champion`, `former` comes to mean the champion before it."""
        with in_words(f"set the alias {alias!r} of {model_name!r}"):
            held = self.aliases(model_name)
            if alias == CHAMPION and held.get(CHAMPION, version) != version:
                self._client.set_registered_model_alias(model_name, FORMER, str(held[CHAMPION]))
            self._client.set_registered_model_alias(model_name, alias, str(version))

    def delete_alias(self, model_name: str, alias: str) -> None:
        """Forget an alias; the version stays.

        Raises:
            TrackingError: no such model or alias; those there are get listed.
        """
        with in_words(f"delete the alias {alias!r} of {model_name!r}"):
            self._aliased(model_name, alias)
            self._client.delete_registered_model_alias(model_name, alias)

    def champion(self, model_name: str) -> VersionRecord | None:
        """Give the champion, or None where there is no such model or no champion yet."""
        with in_words(f"read the champion of {model_name!r}"):
            if model_name not in self.names() or CHAMPION not in (aliases := self.aliases(model_name)):
                return None
            return _record(self._client.get_model_version_by_alias(model_name, CHAMPION), aliases)

    def names(self) -> list[str]:
        """List the registered models of this project."""
        names: list[str] = []
        page: Any = None
        with in_words("list the registered models"):
            while page is None or page.token:
                page = self._client.search_registered_models(page_token=page.token if page else None)
                names += [model.name for model in page if model.name.startswith(PREFIX)]
        return names

    def versions(self, model_name: str) -> list[VersionRecord]:
        """List the versions of a model, newest first.

        Raises:
            TrackingError: there is no such model; the registered ones get listed.
        """
        with in_words(f"list the versions of {model_name!r}"):
            aliases = self.aliases(model_name)
            found = [_record(version, aliases) for version in self._versions(model_name)]
            return sorted(found, key=lambda record: -record.version)

    def aliases(self, model_name: str) -> dict[str, int]:
        """Map the aliases of a model to their versions.

        Raises:
            TrackingError: there is no such model; the registered ones get listed.
        """
        with in_words(f"read the aliases of {model_name!r}"):
            names = self.names()
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
            return Resolved(model_name=name, version=version, run_id=found.run_id or "", source=_source(found))

    def fetch(self, resolved: Resolved, to: Path) -> Path:
        """Copy a bundle to the folder `to`, checked; it appears complete or not at all.

        A run's own bundle was saved before test was read; what the run knows of test is put into the copy.

        Raises:
            TrackingError: `to` holds something already, or the copy failed.
            BundleError: what lies there is no sound bundle.
        """
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise TrackingError(f"{str(to)!r} exists and is not an empty folder; name a new folder, or remove it")
        with in_words(f"copy the bundle of {resolved.model_name!r} to {str(to)!r}"):
            test = self._tracker.test_metrics(resolved.run_id) if resolved.version is None else {}
            self._tracker.artifacts.fetch(
                resolved.source, to, check=lambda copy: add_metrics(_read(copy, resolved.source), test)
            )
        return to

    def _number(self, name: str, reference: Reference) -> int:
        if reference.alias is not None:
            return self._aliased(name, reference.alias)
        known = sorted(record.version for record in self.versions(name))
        if reference.version not in known:
            raise TrackingError(
                f"{name!r} has no version {reference.version}; there are: {', '.join(map(str, known)) or 'none'}; "
                "`utuning models` lists them"
            )
        return reference.version

    def _aliased(self, name: str, alias: str) -> int:
        aliases = self.aliases(name)
        if alias not in aliases:
            raise TrackingError(_unknown(f"alias of {name!r}", alias, aliases))
        return aliases[alias]

    def _resolve_run(self, run_id: str) -> Resolved:
        run = self._tracker.run(run_id)
        if "dataset" not in run.data.tags or not self._tracker.artifacts.has(run_id, RUN_BUNDLE):
            raise TrackingError(
                f"run {run_id} has no bundle; allowed: the run of a trial that was trained to its end; "
                "`utuning leaderboard SPACE --json` names them"
            )
        name, source = f"{PREFIX}{run.data.tags['dataset']}", f"{run.info.artifact_uri.rstrip('/')}/{RUN_BUNDLE}"
        return Resolved(model_name=name, version=None, run_id=run_id, source=source)

    def _known_version(self, model_name: str, run_id: str, tags: Mapping[str, str]) -> int | None:
        for known in self._versions(model_name):
            if known.run_id == run_id:
                for key, value in tags.items():
                    self._client.set_model_version_tag(model_name, str(known.version), key, value)
                return int(known.version)
        return None

    def _new_version(self, model_name: str, run: Resolved, tags: Mapping[str, str]) -> int:
        """Log the run's bundle as an MLflow model, then register it: a version is whole, or is not."""
        with tempfile.TemporaryDirectory() as folder:
            bundle = read_bundle(self.fetch(run, Path(folder) / Path(BUNDLE).name))
            experiment = self._client.get_run(run.run_id).info.experiment_id
            model = self._client.create_logged_model(experiment, bundle.manifest.trial_id, run.run_id)
            packed = pack(bundle, Path(folder) / "model", run_id=run.run_id, model_id=model.model_id)
            self._client.log_model_artifacts(model.model_id, str(packed))
            self._client.finalize_logged_model(model.model_id, "READY")
        source, facts = model.artifact_location, {**_facts(bundle), **tags}
        made = self._client.create_model_version(model_name, source, run.run_id, facts, model_id=model.model_id)
        return int(made.version)

    def _versions(self, model_name: str) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{model_name}'"))


def _source(version: Any) -> str:
    """Where a version's bundle lies: in an MLflow model, as a tag says; older versions are bundles themselves."""
    return f"{version.source.rstrip('/')}/{version.tags.get('bundle', '')}".rstrip("/")


def _read(copy: Path, source: str) -> Bundle:
    try:
        return read_bundle(copy)
    except BundleError as error:
        raise BundleError(str(error).replace(str(copy), source)) from error


def _facts(bundle: Bundle) -> dict[str, str]:
    """What a version's tags say of its bundle: where it lies, its trial and seed, and its own accuracies."""
    manifest = bundle.manifest
    measured = {name: str(value) for name, value in manifest.metrics.items() if name.endswith("/accuracy")}
    named = {"trial": manifest.trial.label, "trial_id": manifest.trial_id, "seed": str(*manifest.seeds)}
    return {**named, **measured, "bundle": BUNDLE}


def _record(version: Any, aliases: Mapping[str, int]) -> VersionRecord:
    number = int(version.version)
    return VersionRecord(
        model_name=version.name,
        version=number,
        aliases=tuple(sorted(alias for alias, meant in aliases.items() if meant == number)),
        run_id=version.run_id or "",
        tags=dict(version.tags),
        created=version.creation_timestamp,
    )


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = nearest(given, names) if names else "there is none yet"
    return f"no {kind} is called {given!r}; {hint}; `utuning search` registers the champion of a search"
