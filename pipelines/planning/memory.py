"""What a worker's memory must hold, counted, and what it has."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cluster.profile import Layout
from pipelines.planning.calibration import Process
from pipelines.planning.plan import Prepared
from pipelines.planning.waves import SPLITS
from utuning.configs import TrialConfig
from utuning.costs import Cost
from utuning.data.loader import IMAGE_CACHE_BYTES

USABLE_MEMORY = 0.6
"""Of a machine's memory, for its workers: Ray's object store may take a third, and the driver and Tune want theirs."""
USABLE_GPU_MEMORY = 0.9
HELD_BY_ALLOCATOR = 1.2
"""Allocators keep what was freed, and a step's tensors come and go: so many times what is counted."""


def need_bytes(cost: Cost, trial: TrialConfig, layout: Layout) -> float:
    """What a member adds to a worker's memory."""
    kept_bytes = cost.kept_bytes * math.ceil(trial.train.batch_size / layout.num_workers)
    return HELD_BY_ALLOCATOR * (cost.member_bytes + kept_bytes)


def base_bytes(ready: Prepared, layout: Layout, process: Process) -> float:
    """What a worker's memory holds without members: the backbone, and on a host its process and decoded images."""
    model = ready.backbone.trunk.model
    weights = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    if layout.gpus_per_worker:
        return HELD_BY_ALLOCATOR * weights
    image_bytes = 3 * ready.backbone.preprocessing.resize**2
    images = sum(min(IMAGE_CACHE_BYTES, ready.dataset.counts[split] * image_bytes) for split in SPLITS)
    return HELD_BY_ALLOCATOR * (weights + process.num_bytes + images)


def room_bytes(layout: Layout) -> float:
    """A worker's share of memory; without limit where its GPU is not on this machine."""
    if layout.gpus_per_worker and not torch.cuda.is_available():
        return math.inf
    if layout.gpus_per_worker:
        return USABLE_GPU_MEMORY * torch.cuda.get_device_properties(0).total_memory
    return USABLE_MEMORY * machine_bytes() / (layout.num_workers * layout.num_cohorts)


def too_large(trials: Sequence[TrialConfig], needs: Mapping[str, float], base: float, room: float) -> list[str]:
    """A note for every trial that does not fit into a worker's memory alone."""
    return [
        f"{trial.name} needs {(base + needs[trial.trial_id]) / 1e9:.1f} GB a worker, of {room / 1e9:.1f} GB that it "
        "has: lower train.batch_size, or give more workers"
        for trial in trials
        if base + needs[trial.trial_id] > room
    ]


def machine_bytes() -> int:
    """Memory of this machine, or what its container may have of it."""
    limit = Path("/sys/fs/cgroup/memory.max")
    found = limit.read_text().strip() if limit.exists() else "max"
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(physical, int(found)) if found.isdigit() else physical
