"""The runs of searches in MLflow: one experiment a search space, one parent run a search, one child run a trial.

Only the driver process uses this. MLflow is imported when a store is opened, so importing this module is quick.
"""

import json
import math
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipelines.data_tags import read_data_tags
from pipelines.store import beside_sqlite, connect, in_words, safe
from pipelines.workspace import Workspace
from utuning.configs import TrialConfig
from utuning.data.protocols import AS_GIVEN
from utuning.errors import TrackingError, nearest

Status = Literal["FINISHED", "FAILED", "KILLED"]
Outcome = Literal["completed", "stopped", "failed"]
Kind = Literal["trial", "final"]
"""What a run is of: a trial of the search, or one that was trained after it to be measured on test."""

# The store's longest tag is 8,000 characters; the end of an error says most.
ERROR_CHARS = 4000


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One trial's run as the store holds it; `outcome` is its run status in small letters while it has none.

    `final` marks what was trained after the search, to be measured on test. `val_from` says where val comes from,
    `subset` whether the data are a part of a known set, `data_images` how images are stored, `data_warnings` what was
    remarked on when they were prepared.
    `weights` is where its backbone's weights came from, as its space said; empty where that is not known.
    """

    run_id: str
    search_id: str
    outcome: str
    trial: TrialConfig
    metrics: Mapping[str, float]
    start_time: int
    final: bool = False
    val_from: str = ""
    subset: bool = False
    data_images: str = AS_GIVEN
    data_warnings: tuple[str, ...] = ()
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """One search's parent run."""

    run_id: str
    search_id: str


class Tracker:
    """Writes and reads the runs of one tracking store. Every failure of the store is a `TrackingError`."""

    def __init__(self, client: Any, uri: str, artifact_root: Path | None) -> None:
        self.client = client
        self.uri = uri
        self._artifact_root = artifact_root
        self._steps: dict[str, set[int]] = {}

    @classmethod
    def open(cls, uri: str, artifact_root: Path | None = None) -> "Tracker":
        """Connect, creating a missing sqlite store.

        Artifacts of new experiments in a database go to `artifact_root`; a tracking server (http) has its own place.

        Raises:
            TrackingError: the store cannot be reached or used; said within about ten seconds.
        """
        client, database = connect(uri)
        root = (artifact_root or beside_sqlite(uri)) if database else None
        return cls(client, uri, root.resolve() if root else None)

    @classmethod
    def of(cls, workspace: Workspace, uri: str | None = None) -> "Tracker":
        """Connect to the store at `uri`, or to the workspace's own; raises as `open` does."""
        return cls.open(uri or workspace.tracking_uri, workspace.artifacts)

    def start_search(
        self, space_name: str, *, search_id: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> str:
        """Give the parent run of a search: the one with this `search_id` set to running again, or a new one."""
        with in_words("start the search's run"):
            experiment = self._experiment(space_name)
            if (found := self._find(experiment, "search", search_id=search_id)) is not None:
                self.client.update_run(found.info.run_id, status="RUNNING")
                return str(found.info.run_id)
            named = {**tags, "kind": "search", "search_id": search_id}
            run = self.client.create_run(experiment, run_name=f"{space_name} {search_id}", tags=named)
            self._log_params(run.info.run_id, params)
            return str(run.info.run_id)

    def spaces(self) -> list[str]:
        """List the names of the spaces that were searched."""
        with in_words("list the searched spaces"):
            return sorted(
                experiment.name for experiment in self.client.search_experiments() if experiment.name != "Default"
            )

    def searches(self, space_name: str) -> list[SearchRecord]:
        """List the searches of a space, newest first; none if there is no such space."""
        with in_words(f"list the searches of {space_name!r}"):
            experiment = self.client.get_experiment_by_name(space_name)
            runs = [] if experiment is None else list(self._search(experiment.experiment_id, "search"))
            return [SearchRecord(run_id=run.info.run_id, search_id=run.data.tags["search_id"]) for run in runs]

    def unfinished_search(self, space_name: str, space_digest: str) -> str:
        """Give the `search_id` of the newest search of this space, by its tag `space_digest`, that did not finish.

        Raises:
            TrackingError: there is none.
        """
        with in_words(f"look for a search of {space_name!r} to go on with"):
            experiment = self.client.get_experiment_by_name(space_name)
            if experiment is None:
                raise TrackingError(self._unknown(space_name))
            searches = list(self._search(experiment.experiment_id, "search"))
            for run in searches:
                if run.info.status != "FINISHED" and run.data.tags.get("space_digest") == space_digest:
                    return str(run.data.tags["search_id"])
        held = ", ".join(f"{run.data.tags['search_id']} ({run.info.status.lower()})" for run in searches) or "none"
        raise TrackingError(
            f"no unfinished search of {space_name!r} has this space, data and backbone; searches there are: {held}; "
            "undo what was changed since, or start a new search without --resume"
        )

    def start_trial(
        self,
        parent_run_id: str,
        trial: TrialConfig,
        tags: Mapping[str, str] | None = None,
        *,
        kind: Kind = "trial",
    ) -> str:
        """Give the child run of a trial: the one there is, set to running and without its outcome, or a new one."""
        with in_words(f"start the run of trial {trial.name!r}"):
            parent = self.client.get_run(parent_run_id)
            experiment = parent.info.experiment_id
            parentage = {"mlflow.parentRunId": parent_run_id}
            found = self._find(experiment, kind, trial_id=trial.trial_id, **parentage)
            if found is not None:
                return self._run_again(found)
            search_id = parent.data.tags["search_id"]
            named = {**_identity(trial), **(tags or {}), **parentage, "kind": kind, "search_id": search_id}
            run = self.client.create_run(experiment, run_name=trial.name, tags=named)
            self._steps[run.info.run_id] = set()
            self._log_params(run.info.run_id, flat(trial))
            return str(run.info.run_id)

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch in one write. An epoch that the run has already is left as it is.

        A value that isn't finite is left out, and the run gets the tag `diverged`.
        """
        with in_words(f"log epoch {epoch}"):
            steps = self._known_steps(run_id)
            if epoch in steps:
                return
            self._log(run_id, {**metrics, "epoch": epoch}, step=epoch)
            steps.add(epoch)

    def finish_trial(
        self,
        run_id: str,
        *,
        status: Status,
        outcome: Outcome,
        metrics: Mapping[str, float],
        bundle: Path | None = None,
        error: str | None = None,
    ) -> None:
        """End a trial's run: final metrics beside its last epoch, the bundle folder as `bundle/`, why it failed."""
        with in_words("finish the trial's run"):
            known = self.client.get_run(run_id).data.metrics
            self._log(run_id, {k: v for k, v in metrics.items() if known.get(k) != v}, step=self._last_step(run_id))
            if bundle is not None:
                self.client.log_artifacts(run_id, str(bundle), "bundle")
            if error:
                self.client.set_tag(run_id, "error", error[-ERROR_CHARS:])
            self.client.set_terminated(run_id, status)
            # Last: a trial without an outcome is run again, so a driver killed in between loses none.
            self.client.set_tag(run_id, "outcome", outcome)

    def note(self, run_id: str, key: str, text: str) -> None:
        """Write a tag of a run."""
        with in_words(f"note {key}"):
            self.client.set_tag(run_id, key, text)

    def log_test(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log what was measured on the test split, once.

        Raises:
            TrackingError: the run has test metrics already.
        """
        with in_words("log the test metrics"):
            if known := self.test_metrics(run_id):
                raise TrackingError(
                    f"run {run_id} has {', '.join(sorted(known))} already; test is measured once a run: "
                    "read it from the leaderboard, or measure another run"
                )
            self._log(run_id, metrics, step=self._last_step(run_id))

    def test_metrics(self, run_id: str) -> dict[str, float]:
        """Give what was measured on the test split; nothing if it was not."""
        with in_words("read the test metrics"):
            metrics = self.client.get_run(run_id).data.metrics
            return {key: value for key, value in metrics.items() if key.startswith("test/")}

    def log_artifact(self, run_id: str, path: Path, to: str | None = None) -> None:
        """Store one file, or the contents of a folder, with a run, in the folder `to` of its artifacts."""
        with in_words(f"store {str(path)!r}"):
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(run_id, str(path), to)

    def has_artifact(self, run_id: str, folder: str) -> bool:
        """Whether a run has files in a folder of its artifacts."""
        with in_words(f"list the artifacts of run {run_id}"):
            return bool(self.client.list_artifacts(run_id, folder))

    def download_artifact(self, run_id: str, folder: str, to: Path) -> Path:
        """Copy a folder of a run's artifacts to the folder `to`, which appears complete or not at all."""
        with in_words(f"copy the {folder} of run {run_id} to {str(to)!r}"):
            self.fetch(f"{self.client.get_run(run_id).info.artifact_uri}/{folder}", to)
        return to

    def keep(self, run_id: str, name: str, values: Mapping[str, Any]) -> None:
        """Store plain values with a run, as a JSON file."""
        with in_words(f"store {name}"):
            self.client.log_dict(run_id, dict(values), name)

    def kept(self, run_id: str, name: str) -> Any:
        """Read the values of a JSON file that `keep` stored; None if there is none. Raises ValueError for no JSON."""
        with in_words(f"read {name} of run {run_id}"), tempfile.TemporaryDirectory() as folder:
            if name not in {file.path for file in self.client.list_artifacts(run_id)}:
                return None
            return json.loads(Path(self.client.download_artifacts(run_id, name, folder)).read_text())

    def finish_search(self, run_id: str, status: Status, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """End the parent run of a search."""
        with in_words("finish the search's run"):
            self._log(run_id, metrics, step=0)
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)
            self.client.set_terminated(run_id, status)

    def runs(self, space_name: str) -> list[RunRecord]:
        """List the runs of all trials of a space, newest first, finals included.

        Raises:
            TrackingError: no search of this space is in the store; those there are get listed.
        """
        with in_words(f"read the runs of {space_name!r}"):
            experiment = self.client.get_experiment_by_name(space_name)
            if experiment is None:
                raise TrackingError(self._unknown(space_name))
            found = [run for kind in get_args(Kind) for run in self._search(experiment.experiment_id, kind)]
            return [_record(run) for run in sorted(found, key=lambda run: -run.info.start_time)]

    def download_bundle(self, run_id: str, to: Path) -> Path:
        """Copy a run's bundle to the folder `to`, which appears complete or not at all."""
        return self.download_artifact(run_id, "bundle", to)

    def run(self, run_id: str) -> Any:
        """Give MLflow's run.

        Raises:
            TrackingError: there is none of this id.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        raise TrackingError(
            f"no run in {safe(self.uri)} has the id {run_id}; searched were: {', '.join(self.spaces()) or 'none'}; "
            "`utuning leaderboard SPACE --json` names the runs of one"
        )

    def fetch(self, source: str, to: Path, check: Callable[[Path], object] = lambda path: None) -> None:
        """Copy an artifact folder by its URI to a folder that is new or empty; nothing half-written stays.

        What `check` raises of the copy leaves nothing either.
        """
        from mlflow.artifacts import download_artifacts

        partial = to.absolute().parent / f".{to.name}.partial-{uuid.uuid4().hex[:12]}"
        try:
            partial.mkdir(parents=True)
            got = download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=self.uri)
            check(Path(got))
            Path(got).rename(to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _unknown(self, space_name: str) -> str:
        names = self.spaces()
        known = nearest(space_name, names) if names else "it is empty"
        return f"no search of {space_name!r} in {safe(self.uri)}; {known}; run `utuning search` first"

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = (self._artifact_root / name).as_uri() if self._artifact_root else None
            return str(self.client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the experiment {name!r} was deleted; restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or give the space another name"
            )
        return str(found.experiment_id)

    def _find(self, experiment: str, kind: str, **tags: str) -> Any | None:
        return next(self._search(experiment, kind, **tags), None)

    def _search(self, experiment: str, kind: str, **tags: str) -> Iterator[Any]:
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in {"kind": kind, **tags}.items())
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [experiment], query, order_by=["attributes.start_time DESC"], page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def _run_again(self, run: Any) -> str:
        run_id = str(run.info.run_id)
        self.client.update_run(run_id, status="RUNNING")
        for tag in {"outcome", "error"} & set(run.data.tags):
            self.client.delete_tag(run_id, tag)
        return run_id

    def _known_steps(self, run_id: str) -> set[int]:
        if run_id not in self._steps:
            self._steps[run_id] = {metric.step for metric in self.client.get_metric_history(run_id, "epoch")}
        return self._steps[run_id]

    def _last_step(self, run_id: str) -> int:
        return max(self._known_steps(run_id), default=0)

    def _log(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        if len(finite) < len(metrics):
            self.client.set_tag(run_id, "diverged", "true")
        if finite:
            self.client.log_batch(run_id, metrics=[Metric(key, value, now, step) for key, value in finite.items()])

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])


def flat(trial: TrialConfig) -> dict[str, str]:
    """Write a configuration under short keys: `train.lr`, `tuners.0.ops` = `attn+mlp`, `tuners.0.bottleneck_dim`."""
    values = trial.as_dict()
    params = {f"train.{key}": value for key, value in values.pop("train").items()}
    for index, tuner in enumerate(values.pop("tuners")):
        settings = tuner.pop("settings")
        tuner["ops"] = "+".join(tuner["ops"])
        params |= {f"tuners.{index}.{key}": value for key, value in {**tuner, **settings}.items()}
    return {key: _text(value) for key, value in {**values, **params}.items()}


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _identity(trial: TrialConfig) -> dict[str, str]:
    return {
        "trial_id": trial.trial_id,
        "config_id": trial.config_id,
        "method": trial.method,
        "dataset": trial.dataset,
        "protocol": trial.protocol,
        "data_fingerprint": trial.data_fingerprint,
        "backbone_fingerprint": trial.backbone_fingerprint,
        "trial_config": json.dumps(trial.as_dict(), sort_keys=True),
    }


def _record(run: Any) -> RunRecord:
    tags = run.data.tags
    return RunRecord(
        run_id=run.info.run_id,
        search_id=tags["search_id"],
        outcome=tags.get("outcome", run.info.status.lower()),
        trial=TrialConfig.from_dict(json.loads(tags["trial_config"])),
        metrics=dict(run.data.metrics),
        start_time=run.info.start_time,
        final=tags["kind"] == "final",
        weights=tags.get("backbone_weights", ""),
        **read_data_tags(tags),
    )
