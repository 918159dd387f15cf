"""Which states of the frozen trunk a split's members read, and their cached copies.

States are numbered as in `shared_rows`: by the depth of the block that they enter, L for the final norm's, L + 1 for
the features. A state is a function of the image and the frozen weights alone, and so the same for all members, epochs
and searches.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utuning.backbone import Backbone
from utuning.prefix_cache import PrefixCache, prefix_key
from utuning.prefix_entry import PrefixEntry
from utuning.prefix_files import Layout
from utuning.shared_rows import SharedRows
from utuning.streams import Stream, states_read

CACHE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Useful:
    """The part of a prefix that a list of members reads: what a loader asks for."""

    prefix: "Prefix"
    depths: Collection[int]
    images: bool

    def read(self, rows_R: Tensor, view: int) -> Mapping[int, Tensor] | None:
        """The states of these images; None if any is missing."""
        return self.prefix.read(rows_R, self.depths, view)

    def write(self, rows_R: Tensor, states: Mapping[int, Tensor], view: int) -> None:
        """Keep states of these images."""
        self.prefix.write(rows_R, states, view)


class Prefix:
    """The cached states of one split, in all its views.

    Args:
        cache: where they lie.
        shapes: of each state of one image, by depth.
        num_rows: images of the split.
        num_views: random crops of each.
        dtype: what is stored; what is read is fp32.
        facts: everything else that a state depends on.
    """

    def __init__(
        self,
        cache: PrefixCache,
        shapes: Mapping[int, Sequence[int]],
        *,
        num_rows: int,
        num_views: int,
        dtype: torch.dtype,
        facts: Mapping[str, Any],
    ) -> None:
        self._cache, self._shapes, self._num_rows, self._dtype = cache, shapes, num_rows, dtype
        self._num_views = num_views
        self._facts = {**facts, "dtype": str(dtype)}
        self._entries: dict[tuple[int, int], PrefixEntry | None] = {}

    def useful(self, backbone: Backbone, members: Sequence[Stream], budget_bytes: int) -> "Useful | None":
        """The states that these members read, the cheapest needs first, within a number of bytes."""
        reads = [states_read(backbone.trunk, member) for member in members]
        chosen = {depth for depth in cheapest_needs(reads, self._bytes, budget_bytes) if self._has_room(depth)}
        if not chosen:
            return None
        return Useful(self, sorted(chosen), images=any(min(needed) < min(chosen) for needed in reads))

    def release(self, backbone: Backbone, members: Sequence[Stream]) -> None:
        """Let go of the states that none of these members reads, so that they may be evicted.

        Not while batches are loaded. Who reads such a state later opens it again, and what had no room may have it now.
        """
        read = {depth for member in members for depth in states_read(backbone.trunk, member)}
        for key, entry in list(self._entries.items()):
            if entry is None or key[0] not in read:
                self._close(key)

    def read(self, rows_R: Tensor, depths: Collection[int], view: int) -> dict[int, Tensor] | None:
        """All these states of all these images, each (R, *shape); None if any is missing."""
        found: dict[int, Tensor] = {}
        for depth in depths:
            entry = self._entry(depth, view)
            state = None if entry is None else entry.read(rows_R)
            if state is None:
                return None
            found[depth] = state.float()
        return found

    def write(self, rows_R: Tensor, states: Mapping[int, Tensor], view: int) -> None:
        """Keep states of these images."""
        for depth, state in states.items():
            if (entry := self._entry(depth, view)) is not None:
                entry.write(rows_R, state)

    def _has_room(self, depth: int) -> bool:
        """Whether all views of a state can be kept: others may use the cache's bytes. If not, none is held."""
        views = range(self._num_views)
        if all(self._entry(depth, view) is not None for view in views):
            return True
        for view in views:
            self._close((depth, view))
        self._entries[depth, 0] = None
        return False

    def _close(self, key: tuple[int, int]) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            entry.close()

    def _bytes(self, depths: Iterable[int]) -> int:
        """Bytes of these states of the whole split, in all views."""
        layouts = [Layout(self._num_rows, tuple(self._shapes[depth]), self._dtype) for depth in depths if depth >= 0]
        return self._num_views * sum(sum(layout.sizes.values()) for layout in layouts)

    def _entry(self, depth: int, view: int) -> PrefixEntry | None:
        if (depth, view) not in self._entries:
            facts = {**self._facts, "depth": depth, "view": view}
            self._entries[depth, view] = self._cache.entry(
                prefix_key(**facts),
                num_rows=self._num_rows,
                row_shape=self._shapes[depth],
                dtype=self._dtype,
                about=facts,
            )
        return self._entries[depth, view]


def cheapest_needs(
    reads: Iterable[frozenset[int]], bytes_of: Callable[[Collection[int]], float], budget_bytes: float
) -> frozenset[int]:
    """The states that fit into a number of bytes, the cheapest members' needs first, each as a whole."""
    chosen: frozenset[int] = frozenset()
    for needed in sorted(reads, key=bytes_of):
        new = needed - chosen - {-1}
        if (size := bytes_of(new)) <= budget_bytes:
            budget_bytes -= size
            chosen |= new
    return chosen


def state_shapes(backbone: Backbone) -> dict[int, tuple[int, ...]]:
    """The shape of every state of one image, by depth, found by running one."""
    size, device = backbone.preprocessing.img_size, next(backbone.trunk.model.parameters()).device
    image = backbone.normalise(torch.zeros(1, 3, size, size, device=device))
    depths = range(len(backbone.trunk.blocks) + 2)
    shared = SharedRows(backbone.trunk, image, wanted=depths)
    shared.features()
    return {depth: tuple(state.shape[1:]) for depth, state in shared.found.items()}
