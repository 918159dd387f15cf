"""Ray Train's trainer of a worker group, without the processes and imports that a group here has no use for.

Nothing in this module or in what it imports needs torch, so that neither the cohort service nor a group's controller
waits for it: workers alone do.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray._common.network_utils import build_address
from ray.exceptions import GetTimeoutError
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.constants import DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# Nothing reads Ray Data here. The cleaner frees a group whose controller was killed, through the dashboard's State API,
# and waits ten seconds for it where there is none, as at home.
SPARED = frozenset({"DatasetsCallback"})
SPARED_AT_HOME = SPARED | {"PlacementGroupCleanerCallback"}


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Runs a function on a group of workers that sum over torch's process group.

    Args:
        train: what each worker runs.
        check_wanted: raises where nobody waits for the group any more; asked before workers are started.
        local: whether the cluster is this machine alone.
        timeout_s: how long workers wait for each other.
        arguments: of Ray Train's trainer.
    """

    def __init__(
        self,
        train: Callable[[dict[str, Any]], None],
        *,
        check_wanted: Callable[[], None],
        local: bool,
        timeout_s: int,
        **arguments: Any,
    ) -> None:
        self._check_wanted, self._local = check_wanted, local
        super().__init__(train, backend_config=ProcessGroupConfig(timeout_s), **arguments)

    def _create_default_callbacks(self) -> list[Any]:
        spared = SPARED_AT_HOME if self._local else SPARED
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in spared]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = HomePolicy if self._local else WantedPolicy
        arguments["scaling_policy"] = policy(self.scaling_config, self._check_wanted)
        return super()._initialize_and_run_controller(**arguments)


class WantedPolicy(FixedScalingPolicy):  # type: ignore[misc]
    """Starts no workers for a group that nobody waits for.

    A controller outlives whoever started it by some seconds, and would take its workers' death for theirs: the new ones
    would hold their CPUs when it is gone.
    """

    def __init__(self, scaling_config: Any, check_wanted: Callable[[], None]) -> None:
        super().__init__(scaling_config)
        self._check_wanted = check_wanted

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Start all workers, if they are wanted; what is raised else, Ray Train tries again until it is killed."""
        self._check_wanted()
        return super().make_decision_for_non_running_worker_group()


class HomePolicy(WantedPolicy):
    """Asks no autoscaler for machines, as one machine has none: the request would be a process more."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Register nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass

    def _send_resource_request(self) -> None:
        pass


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """Torch's process group over a worker group: NCCL between GPUs, else gloo; a worker alone has none."""

    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when workers have started."""
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Joins the workers of a group, and parts them."""

    # NCCL sees each worker's peers.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Make the process group; worker 0 is where they meet."""
        size = len(worker_group)
        if size == 1:
            return
        address, port = worker_group.execute_single(0, get_address_and_port)
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        meeting = {
            "backend": "nccl" if gpus else "gloo",
            "init_method": f"tcp://{build_address(address, port)}",
            "world_size": size,
            "timeout": timedelta(seconds=backend_config.timeout_s),
        }
        ray.get([worker_group.execute_single_async(rank, _join, rank, meeting) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Leave the process group; a worker that still waits for a lost one cannot, and is not waited for."""
        if len(worker_group) > 1:
            with suppress(GetTimeoutError):
                ray.get(worker_group.execute_async(_leave), timeout=DEFAULT_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S)


def _join(rank: int, meeting: dict[str, Any]) -> None:
    import torch.distributed as dist

    dist.init_process_group(rank=rank, **meeting)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
