"""Ties Tune to the tracking store and the board, in the driver alone: workers never talk to MLflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Callback

from pipelines.cohorts.progress import PATH, ProgressStore
from pipelines.cohorts.roster import ERROR
from pipelines.cohorts.shared import BUNDLE
from pipelines.cohorts.spared import SHARE, Tally
from pipelines.search.board import Board
from pipelines.tracking.records import Kind, Outcome, Status
from pipelines.tracking.tracker import Tracker
from utuning.configs import TrialConfig

REPORTED = (
    "epoch",
    "train/loss",
    "val/loss",
    "val/accuracy",
    "lr",
    "train_time_s",
    "images_per_s",
    "input_wait",
    "cohort_members",
)
FACTS = ("trainable_params", "tuner_params", "head_params", "peak_memory_bytes", "bundle_bytes")


@dataclass
class Recorder(Callback):  # type: ignore[misc]
    """One MLflow run for each trial, from its start to its end, whatever the end."""

    tracker: Tracker
    parent_run_id: str
    tags: Mapping[str, str]
    board: Board
    store: ProgressStore
    service: Any
    kind: Kind = "trial"
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a configuration was proposed, by its id."""
    began_as: Mapping[str, TrialConfig] = field(default_factory=dict)
    """What members began as that go on as copies of others, by the copies' ids."""
    run_ids: dict[str, str] = field(default_factory=dict)
    spared: Tally = field(default_factory=Tally)
    _first: dict[str, TrialConfig] = field(default_factory=dict)
    _noted: dict[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for its own restore, which this project does not use."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open the trial's run; one that goes on, be it with other settings, has its run already."""
        case = trial.config["case"]
        config = TrialConfig.from_dict(case["trial"])
        if trial.trial_id not in self.run_ids:
            first = self._first[trial.trial_id] = self.began_as.get(case["id"], config)
            why = {"warm_start": self.reasons[first.config_id]} if first.config_id in self.reasons else {}
            self.run_ids[trial.trial_id] = self.tracker.start_trial(
                self.parent_run_id, first, {**self.tags, **why}, kind=self.kind
            )
        self.board.start(trial.trial_id, config.name, config.train.epochs)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Log an epoch."""
        if ERROR in result:
            return
        epoch = int(result["epoch"])
        metrics = {key: result[key] for key in REPORTED if key in result}
        self.tracker.log_epoch(self.run_ids[trial.trial_id], epoch, metrics)
        # The trial itself may have been given another configuration by now: the scheduler was told first.
        self._note_copy(trial.trial_id, result["config"]["case"])
        self.spared.add(trial.trial_id, result)
        self.board.epoch(trial.trial_id, epoch, result.get("val/accuracy"), at_work(result, self.spared.seconds))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the run of a trial that ran to its end, failed by itself, or was stopped early by the scheduler."""
        result = trial.last_result or {}
        if ERROR in result:
            self._finish(trial, "failed", result, result[ERROR])
            return
        whole = result.get("epoch") == trial.config["case"]["trial"]["train"]["epochs"]
        self._finish(trial, "completed" if whole else "stopped", result, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the run of a trial whose process failed more often than it may."""
        error = Path(trial.error_file).read_text() if trial.error_file else "unknown"
        self._finish(trial, "failed", trial.last_result or {}, error)

    def _note_copy(self, trial_id: str, case: Mapping[str, Any]) -> None:
        """Where another was copied into a trial: `--resume` and its run know it as what it is, from its first epoch on.

        Before that epoch there is nothing to go on from.
        """
        first = self._first[trial_id]
        if case["id"] in (first.trial_id, self._noted.get(trial_id)):
            return
        config, run_id = TrialConfig.from_dict(case["trial"]), self.run_ids[trial_id]
        self.store.become(first.trial_id, case)
        now = {"goes_on_as": config.name, "config_id": config.config_id, "method": config.method}
        for key, text in {**now, "trial_config": json.dumps(config.as_dict(), sort_keys=True)}.items():
            self.tracker.note(run_id, key, text)
        self._noted[trial_id] = case["id"]

    def _finish(self, trial: Any, outcome: Outcome, result: Mapping[str, Any], error: str | None) -> None:
        # Its process may be kept for another trial; the cohort is not to wait for it.
        self.service.leave.remote(str(trial.trial_id))
        run_id = self.run_ids[trial.trial_id]
        facts = {key: float(result[key]) for key in FACTS if key in result}
        status: Status = "FAILED" if outcome == "failed" else "FINISHED"
        if PATH in result:
            with self.store.open(result[PATH]) as folder:
                bundle = folder / BUNDLE
                self.tracker.finish_trial(
                    run_id, status=status, outcome=outcome, metrics=facts, bundle=bundle, error=error
                )
        else:
            self.tracker.finish_trial(run_id, status=status, outcome=outcome, metrics=facts, error=error)
        self.board.end(trial.trial_id, outcome)


def at_work(result: Mapping[str, Any], spared_s: float) -> tuple[str, ...]:
    """How a trial's cohort is doing, as its last report says, and what all cohorts have spared so far: short lines."""
    if "cohort_images_per_s" not in result:
        return ()
    members = result["cohort_members"]
    return (
        f"cohort: {members} member{'s' * (members != 1)}, {result['cohort_images_per_s']:,.0f} images/s in all, "
        f"{result['input_wait']:.0%} of the time waiting for images",
        f"shared: {result[SHARE]:.0%} of the frozen blocks' work; with starts of workers about {spared_s:.0f} s saved",
    )
