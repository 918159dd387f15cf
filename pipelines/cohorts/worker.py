"""A worker of a group: what its process keeps while cohorts come and go, above all the backbone.

The backbone arrives through Ray's object store, so a worker needs no file of the driver's machine.
"""

import ctypes
import gc
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from pipelines.cohorts.shared import Shared
from utuning.backbone import Backbone

T = TypeVar("T")


class Worker:
    """One worker of a group, which is to be the same on all of them: they are told the same, and sum what they have."""

    def __init__(self, service: Any, group: str, shared: Shared) -> None:
        torch.set_num_threads(shared.group.layout.cpus_per_worker)
        context = ray.train.get_context()
        self.number, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.service, self.group, self.shared = service, group, shared
        self.device = ray.train.torch.get_device()
        if self.device.type == "cuda":
            # A thread's own setting, and this is the thread that trains: NCCL asks for it.
            torch.cuda.set_device(self.device)
        self.backbone = load_backbone(shared).to(self.device)

    def told(self, ask: Callable[[], T]) -> T:
        """What worker 0 is told, on every worker."""
        values: list[Any] = [ask() if self.number == 0 else None]
        if self.num_workers > 1:
            dist.broadcast_object_list(values, src=0)
        told: T = values[0]
        return told

    def sum(self, tensor: torch.Tensor) -> None:
        """Sum a tensor over all workers, in place."""
        if self.num_workers > 1:
            dist.all_reduce(tensor)

    def forget(self) -> None:
        """Give back what is left of earlier work: the memory of what comes is measured from here on."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        # What Linux alone has; elsewhere the peak is that of all cohorts so far.
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # thousands of images were small to its allocator, which keeps them
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def load_backbone(shared: Shared) -> Backbone:
    """Build the backbone from the arrays of the object store."""
    arrays = ray.get(shared.backbone_state)
    # The store's pages are read-only; the model copies them into its own parameters.
    return Backbone.from_config(
        shared.backbone, {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    )


def peak_memory_bytes() -> int:
    """Peak memory of this worker since its cohort began: the allocator's on a GPU, else the process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
