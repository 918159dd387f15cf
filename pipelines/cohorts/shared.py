"""What every process of a search knows of it, light enough for those that only watch: no torch, no timm."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipelines.cohorts.worker_group import WorkerGroup
from utuning.configs import BackboneConfig
from utuning.errors import DataError

BUNDLE = "bundle"
"""The bundle's folder inside a saved epoch."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all trials of a search share: their groups; in the object store splits and the backbone's arrays."""

    group: WorkerGroup
    splits: Mapping[str, ray.ObjectRef]
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

    def split(self, split: str) -> Any:
        """A split's table; of a large split its name.

        Raises:
            DataError: a split that the search was not given; test never is.
        """
        if split not in self.splits:
            raise DataError(
                f"a search has no split {split!r}; it has {', '.join(self.splits) or 'none'}: test is read once, after "
                "the search, for what was chosen"
            )
        return ray.get(self.splits[split])

    @property
    def rows_cache(self) -> Path:
        """Where each machine keeps what it finds out of large splits."""
        return Path(self.cache) / "rows"

    @property
    def members(self) -> str:
        """Where the members' epochs are saved."""
        return f"{self.storage}/members"
