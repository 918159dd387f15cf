"""The runs of searches in MLflow: one experiment a search space, one parent run a search, one child run a trial.

Only the driver process uses this. MLflow is imported when a store is opened, so importing this module is quick.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pipelines.tracking.artifacts import BUNDLE, Artifacts
from pipelines.tracking.experiments import Experiments
from pipelines.tracking.records import Kind, Outcome, RunRecord, SearchRecord, Status, flat, run_record, trial_tags
from pipelines.tracking.run_log import RunLog
from pipelines.tracking.store import beside_sqlite, connect, in_words
from pipelines.workspace import Workspace
from utuning.configs import TrialConfig
from utuning.errors import TrackingError

# The store's longest tag is 8,000 characters; the end of an error says most.
ERROR_CHARS = 4000


class Tracker:
    """Writes and reads the runs of one tracking store. Every failure of the store is a `TrackingError`."""

    def __init__(self, client: Any, uri: str, artifact_root: Path | None) -> None:
        self.client = client
        self.uri = uri
        self.artifacts = Artifacts(client, uri)
        self._experiments = Experiments(client, uri, artifact_root)
        self._log = RunLog(client)

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
            experiment = self._experiments.made(space_name)
            if (found := self._experiments.newest(experiment, "search", search_id=search_id)) is not None:
                self.client.update_run(found.info.run_id, status="RUNNING")
                return str(found.info.run_id)
            named = {**tags, "kind": "search", "search_id": search_id}
            return self._new_run(experiment, f"{space_name} {search_id}", named, params)

    def finish_search(self, run_id: str, status: Status, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """End the parent run of a search."""
        with in_words("finish the search's run"):
            self._log.beside_last_epoch(run_id, metrics)
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)
            self.client.set_terminated(run_id, status)

    def spaces(self) -> list[str]:
        """List the names of the spaces that were searched."""
        with in_words("list the searched spaces"):
            return self._experiments.names()

    def searches(self, space_name: str) -> list[SearchRecord]:
        """List the searches of a space, newest first; none if there is no such space."""
        with in_words(f"list the searches of {space_name!r}"):
            experiment = self._experiments.find(space_name)
            runs = [] if experiment is None else list(self._experiments.runs(experiment, "search"))
            return [SearchRecord(run_id=run.info.run_id, search_id=run.data.tags["search_id"]) for run in runs]

    def unfinished_search(self, space_name: str, space_digest: str) -> str:
        """Give the `search_id` of the newest search of this space, by its tag `space_digest`, that did not finish.

        Raises:
            TrackingError: there is none.
        """
        with in_words(f"look for a search of {space_name!r} to go on with"):
            searches = list(self._experiments.runs(self._experiments.known(space_name), "search"))
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
            found = self._experiments.newest(experiment, kind, trial_id=trial.trial_id, **parentage)
            if found is not None:
                return self._run_again(found)
            search_id = parent.data.tags["search_id"]
            named = {**trial_tags(trial), **(tags or {}), **parentage, "kind": kind, "search_id": search_id}
            return self._new_run(experiment, trial.name, named, flat(trial))

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch in one write. An epoch that the run has already is left as it is.

        A value that isn't finite is left out, and the run gets the tag `diverged`.
        """
        with in_words(f"log epoch {epoch}"):
            self._log.epoch(run_id, epoch, metrics)

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
            self._log.beside_last_epoch(run_id, metrics)
            if bundle is not None:
                self.artifacts.log(run_id, bundle, BUNDLE)
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
            self._log.beside_last_epoch(run_id, metrics)

    def test_metrics(self, run_id: str) -> dict[str, float]:
        """Give what was measured on the test split; nothing if it was not."""
        with in_words("read the test metrics"):
            metrics = self.client.get_run(run_id).data.metrics
            return {key: value for key, value in metrics.items() if key.startswith("test/")}

    def runs(self, space_name: str) -> list[RunRecord]:
        """List the runs of all trials of a space, newest first, finals included.

        Raises:
            TrackingError: no search of this space is in the store; those there are get listed.
        """
        with in_words(f"read the runs of {space_name!r}"):
            experiment = self._experiments.known(space_name)
            found = [run for kind in get_args(Kind) for run in self._experiments.runs(experiment, kind)]
            return [run_record(run) for run in sorted(found, key=lambda run: -run.info.start_time)]

    def run(self, run_id: str) -> Any:
        """Give MLflow's run.

        Raises:
            TrackingError: there is none of this id.
        """
        with in_words(f"look for run {run_id}"):
            return self._experiments.run(run_id)

    def _new_run(self, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        run_id = str(self.client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        self._log.begin(run_id, params)
        return run_id

    def _run_again(self, run: Any) -> str:
        run_id = str(run.info.run_id)
        self.client.update_run(run_id, status="RUNNING")
        for tag in {"outcome", "error"} & set(run.data.tags):
            self.client.delete_tag(run_id, tag)
        return run_id
