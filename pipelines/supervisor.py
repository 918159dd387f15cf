"""A Tune trial: it only starts and watches its Ray Train worker group, one epoch a step."""

import threading
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train import Checkpoint, UserCallback

from pipelines.gate import Gate
from pipelines.shared import CHECKPOINT_PATH, Shared, train_worker
from utuning.configs import TrialConfig

MAX_WORKER_FAILURES = 2
# No trial reads Ray Data. The cleaner frees a group whose controller was killed, through the dashboard's State API, and
# waits ten seconds for it where there is none, as at home.
SPARED = frozenset({"DatasetsCallback"})
SPARED_AT_HOME = SPARED | {"PlacementGroupCleanerCallback"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """The worker group of every trial."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    storage: str
    local: bool


class ReportToGate(UserCallback):  # type: ignore[misc]
    """Passes what worker 0 reported, and where its checkpoint lies, from Ray Train's controller to the gate."""

    def __init__(self, gate: Any) -> None:
        self._gate = gate

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None = None
    ) -> None:
        """Called by Ray Train once all workers have reported an epoch."""
        path = {CHECKPOINT_PATH: checkpoint.path} if checkpoint is not None else {}
        self._gate.report.remote({**metrics[0], **path})


class Supervisor(tune.Trainable):  # type: ignore[misc]
    """One trial as a data-parallel Ray Train job.

    The Train run's name is the trial's id, so that a job which was cut off goes on from its last checkpoint.
    """

    _epoch: int
    _fit: threading.Thread

    def setup(self, config: dict[str, Any], shared: Shared, group: Group) -> None:
        """Start the first trial of this process."""
        self._shared, self._group = shared, group
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Let the workers train one epoch more, and wait for its metrics."""
        self._gate.allow.remote(self._epoch + 1)
        report = ray.get(self._gate.next_report.remote())
        if report is None:
            self._fit.join()
            raise self._error or RuntimeError("the workers ended before their last epoch")
        self._epoch = int(report["epoch"])
        return {**report, "done": self._epoch == self._trial.train.epochs}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, so that its supervisor need not start a process and import Ray Train anew."""
        self.cleanup()
        self._begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save: the Ray Train run keeps the checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: the Ray Train run goes on from its own checkpoint."""

    def cleanup(self) -> None:
        """End the workers at their next epoch boundary, and wait until their resources are free."""
        ray.get(self._gate.stop.remote())
        self._fit.join()

    def _begin(self, config: dict[str, Any]) -> None:
        """Start the trial's worker group, in a thread that waits for its end."""
        self._trial = TrialConfig.from_dict(config["trial"])
        self._gate = ray.remote(num_cpus=0)(Gate).remote()
        self._epoch = 0
        self._error: BaseException | None = None
        self._fit = threading.Thread(target=self._run, daemon=True)
        self._fit.start()

    def _run(self) -> None:
        try:
            _trainer(self._trial, self._shared, self._group, self._gate).fit()
        except BaseException as error:
            self._error = error
        finally:
            self._gate.close.remote()


def _trainer(trial: TrialConfig, shared: Shared, group: Group, gate: Any) -> Any:
    return _trainer_class(SPARED_AT_HOME if group.local else SPARED)(
        train_worker,
        train_loop_config={"trial": trial.as_dict(), "shared": shared, "gate": gate},
        scaling_config=ray.train.ScalingConfig(
            num_workers=group.num_workers,
            use_gpu=group.gpus_per_worker > 0,
            resources_per_worker=_resources(group),
        ),
        run_config=ray.train.RunConfig(
            name=trial.trial_id,
            storage_path=group.storage,
            callbacks=[ReportToGate(gate)],
            failure_config=ray.train.FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )


def _trainer_class(spared: frozenset[str]) -> Any:
    """Ray Train's trainer without callbacks that would start a process more for every trial."""
    from ray.train.torch import TorchTrainer

    class SparingTrainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [each for each in super()._create_default_callbacks() if type(each).__name__ not in spared]

    return SparingTrainer


def _resources(group: Group) -> dict[str, float]:
    gpus = {"GPU": float(group.gpus_per_worker)} if group.gpus_per_worker else {}
    return {"CPU": float(group.cpus_per_worker), **gpus}
