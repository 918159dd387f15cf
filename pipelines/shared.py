"""What every process of a search knows of it, light enough for those that only watch: no torch, no timm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from utuning.configs import BackboneConfig, TrialConfig

BUNDLE = "bundle"
"""The bundle's folder inside a saved epoch."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials of a search share, in the object store: split tables, the backbone's arrays, names."""

    tables: Mapping[str, ray.ObjectRef]
    backbone_state: ray.ObjectRef
    backbone: BackboneConfig
    class_names: tuple[str, ...]
    versions: Mapping[str, str]
    cpus_per_worker: int
    members: str
    """Where the members' epochs are saved."""
    cache: str
    """The folder of cached states, on each machine."""
    cache_bytes: int


def train_worker(config: dict[str, Any]) -> None:
    """The entry point of every worker of a cohort's group; its imports are the workers' alone."""
    from pipelines.job import CohortJob

    CohortJob(TrialConfig.from_dict(config["template"]), config["shared"], config["service"], config["cohort"]).run()
