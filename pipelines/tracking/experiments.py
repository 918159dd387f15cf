"""Finding runs in a tracking store: an experiment for each search space, a kind and tags for each run in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.tracking.store import safe
from utuning.errors import TrackingError, nearest


class Experiments:
    """The experiments of one store. What MLflow raises is left to the caller's `in_words`."""

    def __init__(self, client: Any, uri: str, artifact_root: Path | None) -> None:
        self._client = client
        self._uri = uri
        self._artifact_root = artifact_root

    def names(self) -> list[str]:
        """List the names of the spaces that were searched."""
        return sorted(found.name for found in self._client.search_experiments() if found.name != "Default")

    def find(self, name: str) -> str | None:
        """Give the id of a space's experiment, or None where the space was never searched."""
        found = self._client.get_experiment_by_name(name)
        return None if found is None else str(found.experiment_id)

    def known(self, name: str) -> str:
        """Give the id of a space's experiment.

        Raises:
            TrackingError: the space was never searched; those that were get listed.
        """
        found = self.find(name)
        if found is not None:
            return found
        names = self.names()
        hint = nearest(name, names) if names else "it is empty"
        raise TrackingError(f"no search of {name!r} in {safe(self._uri)}; {hint}; run `utuning search` first")

    def made(self, name: str) -> str:
        """Give the id of a space's experiment, which is created where there is none.

        Raises:
            TrackingError: there was one, and it was deleted.
        """
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = (self._artifact_root / name).as_uri() if self._artifact_root else None
            return str(self._client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"the experiment {name!r} was deleted; restore it with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or give the space another name"
            )
        return str(found.experiment_id)

    def runs(self, experiment: str, kind: str, **tags: str) -> Iterator[Any]:
        """Give the runs of a kind with these tags, newest first."""
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in {"kind": kind, **tags}.items())
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment], query, order_by=["attributes.start_time DESC"], page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def newest(self, experiment: str, kind: str, **tags: str) -> Any | None:
        """Give the newest run of a kind with these tags, or None."""
        return next(self.runs(experiment, kind, **tags), None)

    def run(self, run_id: str) -> Any:
        """Give the run of an id.

        Raises:
            TrackingError: there is none.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        raise TrackingError(
            f"no run in {safe(self._uri)} has the id {run_id}; searched were: {', '.join(self.names()) or 'none'}; "
            "`utuning leaderboard SPACE --json` names the runs of one"
        )
