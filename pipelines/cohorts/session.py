"""A session on a Ray cluster: started here, or joined where one runs already."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.profile import Profile
from utuning.errors import ClusterError

ENVIRONMENT = {
    # Ray Train looks for reports at this interval; its default of 2 s would be paid at every epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "TOKENIZERS_PARALLELISM": "false",
}
DRIVER_ENVIRONMENT = {
    **ENVIRONMENT,
    # The processes of a trial start together; Ray would warn of that.
    "RAY_worker_maximum_startup_concurrency": "16",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
# One machine is not preempted and nobody scrapes it: each of these would be a process or a thread more for every trial.
# Its workers inherit the driver's environment, so that those which Ray starts ahead can be used.
LOCAL_ENVIRONMENT = {
    **DRIVER_ENVIRONMENT,
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
PACKAGES = ("utuning", "search_spaces", "cluster", "pipelines")


@dataclass(frozen=True)
class Resources:
    """What the cluster has."""

    cpus: float
    gpus: float


@contextmanager
def ray_session(profile: Profile) -> Iterator[Resources]:
    """Start or join a cluster, and leave it at the end; call `set_environment` before.

    Raises:
        ClusterError: the address does not answer.
    """
    import ray

    try:
        ray.init(**_arguments(profile))
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ClusterError(
            f"no Ray cluster answers at {profile.address or 'this machine'}: {first}; "
            "start one with `ray start --head`, or leave --cluster out to run here"
        ) from error
    try:
        have = ray.cluster_resources()
        yield Resources(have.get("CPU", 0.0), have.get("GPU", 0.0))
    finally:
        ray.shutdown()


def set_environment(profile: Profile) -> None:
    """Set what Ray reads of its environment when it is imported: before anything imports it."""
    environment = LOCAL_ENVIRONMENT if profile.address is None else DRIVER_ENVIRONMENT
    for key, value in {**environment, **_token(profile)}.items():
        os.environ.setdefault(key, value)


def _token(profile: Profile) -> dict[str, str]:
    """Ray protects a cluster with the user's token once there is one, but clients show it only when told to."""
    has_token = (Path.home() / ".ray" / "auth_token").exists()
    return {"RAY_AUTH_MODE": "token"} if profile.address and has_token else {}


def _arguments(profile: Profile) -> dict[str, Any]:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": False}
    if profile.address is None:
        # Trials end by themselves, so nothing needs the dashboard's processes; MLflow shows the runs.
        return {**common, "address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    root = Path(__file__).parent.parent.parent
    modules = [str(root / name) for name in PACKAGES]
    return {**common, "address": profile.address, "runtime_env": {"env_vars": ENVIRONMENT, "py_modules": modules}}
