"""The stream that members share until they change it: computed lazily, once, without autograd, or read from a cache.

A state is the stream at the entry of a block, by the block's depth; with L blocks, L is what enters the final norm and
L + 1 the features themselves. What nobody asks for is not computed, and what a cache knows is not computed again.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from utuning.architectures import OpSite, Trunk


class SharedRows:
    """A cursor that moves forward through the frozen trunk.

    Args:
        trunk: the frozen trunk.
        images_B3HW: normalised images; None if the known states reach down to every state that is asked for.
        known: states that need not be computed, by depth.
        wanted: depths whose states are kept in `found` as the cursor passes them.
        pooled: whether the last block may compute the pooled tokens alone, unless the state after it is wanted.

    `num_blocks_run` counts the blocks that it has run to their end.
    """

    def __init__(
        self,
        trunk: Trunk,
        images_B3HW: Tensor | None,
        *,
        known: Mapping[int, Tensor] | None = None,
        wanted: Collection[int] = (),
        pooled: bool = False,
    ) -> None:
        self.images_B3HW = images_B3HW
        self.found: dict[int, Tensor] = {}
        self.num_blocks_run = 0
        self._trunk, self._known, self._wanted = trunk, known or {}, wanted
        self._pooled = pooled and len(trunk.blocks) not in wanted
        self._cursor = (-1, 0)
        self._x: Tensor | None = images_B3HW
        self._given: tuple[tuple[int, int], Tensor] | None = None
        self._place_of: dict[int, int] | None = None

    def narrow(self, images: Collection[int]) -> None:
        """Go on with the rows of these images of the batch alone; not where states are known or wanted, of all rows."""
        assert not self._known and not self._wanted, "cached states are of all images"
        if self._x is None or len(images) == len(self._x):
            return
        kept = sorted(images)
        self._x = self.of(kept, self._x)
        self._given = None if self._given is None else (self._given[0], self.of(kept, self._given[1]))
        self._place_of = {image: place for place, image in enumerate(kept)}

    def of(self, images: Sequence[int] | None, shared: Tensor) -> Tensor:
        """A stream's rows out of shared ones: those of these images, in this order; None: all as they are."""
        if images is None:
            return shared
        places = [image if self._place_of is None else self._place_of[image] for image in images]
        return shared if places == [*range(len(shared))] else shared[torch.tensor(places, device=shared.device)]

    def entering(self, depth: int) -> Tensor:
        """The state at the entry of a block, or of the final norm."""
        return self._at((depth, 0))

    def before(self, depth: int, place: int) -> Tensor:
        """The stream before a block's op number `place`."""
        return self._at((depth, place + 1))

    @torch.no_grad()
    def given(self, depth: int, place: int) -> Tensor:
        """What a block's op number `place` gives for the stream before it."""
        x = self.before(depth, place)
        if self._given is None or self._given[0] != (depth, place):
            self._given = (depth, place), self._op(depth, place).run(x)
        return self._given[1]

    @torch.no_grad()
    def features(self) -> Tensor:
        """The final norm, pooled: features_BF."""
        last = len(self._trunk.blocks)
        features_BF = self._known.get(last + 1)
        if features_BF is None:
            features_BF = self._trunk.norm.run(self.entering(last))
        self._keep(last + 1, features_BF)
        return features_BF

    def _at(self, stage: tuple[int, int]) -> Tensor:
        """Move to a stage: a block's depth, then 0 for its entry, 1 for what its first op reads, and so on."""
        known = max((depth for depth in self._known if (depth, 0) <= stage), default=-1)
        if (known, 0) > self._cursor:
            self._move((known, 0), self._known[known])
        assert self._cursor <= stage, "the shared stream is read in the order of a forward pass"
        while self._cursor < stage:
            self._advance()
        return self._present()

    @torch.no_grad()
    def _advance(self) -> None:
        depth, place = self._cursor
        x = self._present()
        if depth < 0:
            self._move((0, 0), self._trunk.stem.run(x))
            return
        block = self._trunk.blocks[depth]
        if place > 0:
            x = self._op(depth, place - 1).merge(x, self.given(depth, place - 1))
        elif block.enter is not None:
            x = block.enter.run(x)
        inside = place < len(block.ops)
        self.num_blocks_run += not inside
        self._move((depth, place + 1) if inside else (depth + 1, 0), x)

    def _move(self, stage: tuple[int, int], x: Tensor) -> None:
        self._cursor, self._x, self._given = stage, x, None
        if stage[1] == 0:
            self._keep(stage[0], x)

    def _keep(self, depth: int, state: Tensor) -> None:
        if depth in self._wanted:
            self.found[depth] = state

    def _op(self, depth: int, place: int) -> OpSite:
        op = self._trunk.blocks[depth].ops[place]
        return op.pooled or op if self._pooled else op

    def _present(self) -> Tensor:
        assert self._x is not None, "neither images nor a known state below what is asked for"
        return self._x
