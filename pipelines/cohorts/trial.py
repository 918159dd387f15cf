"""A Tune trial: it asks the cohort service for one epoch a step. No torch in it, so its process is small."""

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, RayActorError

from pipelines.cohorts.progress import PATH, ProgressStore
from pipelines.cohorts.roster import ERROR, LEFT
from pipelines.cohorts.shared import Shared

SAVED, EPOCH = "member.json", "epoch"
PATIENCE_S = 1.0
WORST = {"val/accuracy": 0.0, "val/loss": math.inf}
"""What schedulers are told of a member that has failed."""


class Trial(tune.Trainable):  # type: ignore[misc]
    """One member of a cohort, as Tune sees it."""

    _path: str | None
    _start: str | None
    _epoch: int

    def setup(self, config: dict[str, Any], service: Any, shared: Shared) -> None:
        """Remember what to ask for; the first step takes the seat."""
        self._service, self._shared = service, shared
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Wait for an epoch's metrics."""
        report = self._asked()
        self._start = None
        if ERROR in report:
            # It failed by itself and would again: an exception would make Tune try it anew.
            return {**report, **WORST, "epoch": self._epoch, "done": True}
        self._path, self._epoch = report[PATH], report["epoch"]
        return {**report, "done": self._epoch == self._config["trial"]["train"]["epochs"]}

    def _asked(self) -> dict[str, Any]:
        """The next epoch's report; a service that was lost is asked again once it has started anew."""
        values = (self._seat, self._config["id"], self._config["trial"], self._epoch, self._start)
        while True:
            try:
                # Its calls run side by side: the next one must not come first.
                ray.get(self._service.open.remote(self._shared))
                report: dict[str, Any] = ray.get(self._service.next_epoch.remote(*values))
            except ActorUnavailableError:
                time.sleep(PATIENCE_S)
                continue
            # A process that had this trial before it was paused has given up the seat: it is taken again.
            if report.get(ERROR) != LEFT:
                return report

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, or this one with other settings, without a new process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Say where the member's last epoch lies, and keep it there: others may be told to go on from it."""
        if self._path is not None:
            self._store.pin(self._path)
        (Path(checkpoint_dir) / SAVED).write_text(json.dumps({PATH: self._path, EPOCH: self._epoch}))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from the epoch of a member, this one's or another's, unless this one has saved a later one since."""
        saved = json.loads((Path(checkpoint) / SAVED).read_text())
        own = self._store.latest(self._config["id"])
        self._path, self._epoch = saved[PATH], saved[EPOCH]
        self._start = saved[PATH] if own is None or own[EPOCH] < saved[EPOCH] else None

    def cleanup(self) -> None:
        """Give the seat up."""
        with suppress(RayActorError):  # a service that was lost knows of no seats
            ray.get(self._service.leave.remote(self._seat))

    @property
    def _store(self) -> ProgressStore:
        return ProgressStore(self._shared.members)

    def _begin(self, config: dict[str, Any]) -> None:
        self._config, self._seat = config["case"], str(self.trial_id)
        self._path = self._start = None
        self._epoch = 0
