"""A Tune trial: it only starts and watches its Ray Train worker group."""

from dataclasses import dataclass
from typing import Any

from pipelines.job import Shared, train_worker
from utuning.configs import TrialConfig

MAX_WORKER_FAILURES = 2


@dataclass(frozen=True, kw_only=True)
class Group:
    """The worker group of every trial."""

    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    storage: str


def supervise(config: dict[str, Any], *, shared: Shared, group: Group) -> None:
    """Run one trial as a data-parallel Ray Train job; its epochs reach Tune as they end.

    The run's name is the trial's id, so that a job which was cut off goes on from its last checkpoint.
    """
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        train_worker,
        train_loop_config={"trial": config["trial"], "shared": shared},
        scaling_config=ray.train.ScalingConfig(
            num_workers=group.num_workers,
            use_gpu=group.gpus_per_worker > 0,
            resources_per_worker=_resources(group),
        ),
        run_config=ray.train.RunConfig(
            name=TrialConfig.from_dict(config["trial"]).trial_id,
            storage_path=group.storage,
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(max_failures=MAX_WORKER_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    ).fit()


def _resources(group: Group) -> dict[str, float]:
    gpus = {"GPU": float(group.gpus_per_worker)} if group.gpus_per_worker else {}
    return {"CPU": float(group.cpus_per_worker), **gpus}
