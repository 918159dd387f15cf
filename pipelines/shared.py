"""What every process of a search knows of it, light enough for those that only watch: no torch, no timm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.worker_group import WorkerGroup
from utuning.configs import BackboneConfig

BUNDLE = "bundle"
"""The bundle's folder inside a saved epoch."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials of a search share: their groups; in the object store split tables (of large splits
    their names) and the backbone's arrays."""

    group: WorkerGroup
    tables: Mapping[str, ray.ObjectRef]
    backbone_state: ray.ObjectRef
    backbone: BackboneConfig
    class_names: tuple[str, ...]
    versions: Mapping[str, str]
    max_members: int
    """How many trials train together in one cohort."""
    storage: str
    """The search's folder."""
    cache: str
    """The folder of cached states, on each machine."""
    cache_bytes: int

    @property
    def members(self) -> str:
        """Where the members' epochs are saved."""
        return f"{self.storage}/members"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a cohort's workers train: trials like the template, which differ in nothing that the cohort shares."""

    template: Mapping[str, Any]
    shared: Shared
