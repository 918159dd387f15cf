"""What a Ray Train worker group is like."""

from dataclasses import dataclass

from cluster.profile import Layout


@dataclass(frozen=True)
class WorkerGroup:
    """The resources of every group of a search; `storage` is for Ray Train's own state."""

    layout: Layout
    storage: str
    local: bool
