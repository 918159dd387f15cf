"""What the engine steps on; it knows nothing of where images come from."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's share of a global batch; padding has weight 0 and index -1.

    Where `states` of the frozen network are known, there may be no images. `wanted` states are those that are still to
    be found, and given to `remember`.
    """

    images: Tensor | None
    labels: Tensor
    weight: Tensor
    index: Tensor
    states: Mapping[int, Tensor] = field(default_factory=dict)
    wanted: Collection[int] = ()
    remember: Callable[[Mapping[int, Tensor]], None] = lambda found: None

    @property
    def pixels(self) -> Tensor:
        """The images, for those who read nothing else."""
        assert self.images is not None, "a batch of known states has no images"
        return self.images

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to a device."""
        return replace(
            self,
            images=None if self.images is None else self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            states={depth: state.to(device, non_blocking=True) for depth, state in self.states.items()},
        )
