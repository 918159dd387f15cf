"""Copy-on-write streams: many members' rows through one frozen trunk.

Rows start shared by all members. A member's rows split off at its first tuned op; until then the frozen ops run once,
without autograd, for everybody. Afterwards the rows of all members that have split run together, one call an op: an op
is frozen and row-wise, so running it on K members' rows together equals running it K times.
Equations (U-Tuning, arXiv 2303.00690, fig. 4a): x' = x + OP(x) + U(x) at an op, y = x_out + U(x) after a block.

Shape legend: B images of a batch, K members that have split, N tokens, D width, F features.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from utuning.architectures import BlockSite, OpSite, Trunk


class Stream(Protocol):
    """What the streams need to know of a member."""

    def tuner_at(self, site: OpSite) -> nn.Module | None:
        """The tuner that stands beside this op, if any."""

    def keep_rows(self, site: OpSite) -> Tensor | None:
        """Drop-path: what each row's branch is multiplied with, shape (B, 1, 1); None keeps all."""


class Streams:
    """The residual stream of one batch: shared rows, and rows of their own for the members that have split."""

    def __init__(self, members: Sequence[Stream], shared_BND: Tensor | None, own_BND: Tensor | None = None) -> None:
        self.members = members
        self.shared = shared_BND
        self.own = own_BND
        self.split: list[int] = [] if own_BND is None else [0]

    def through(self, block: BlockSite) -> None:
        """Run one block for everybody."""
        before, split_before = (self.shared, self.own), tuple(self.split)
        for op in block.ops:
            self._through_op(op)
        self._add_beside_block(block.whole, before, split_before)

    def features(self, trunk: Trunk) -> list[Tensor]:
        """Pool the stream into features_BF, one for each member; members that never split share theirs."""
        shared = None if self.shared is None else _frozen(trunk.features, self.shared)
        own = () if self.own is None else trunk.features(self.own).chunk(len(self.split))
        by_member = dict(zip(self.split, own, strict=True))
        return [by_member[k] if k in by_member else _present(shared) for k in range(len(self.members))]

    def _through_op(self, op: OpSite) -> None:
        tuners = self._tuners(op)
        forking = {k: tuner for k, tuner in tuners.items() if k not in self.split}
        if self.own is not None:
            self.own = self._step_own(op, self.own, tuners)
        if self.shared is not None:
            shared, added = self.shared, _frozen(op.run, self.shared)
            for k, tuner in forking.items():
                self._fork(k, shared + self._dropped(k, op, added + tuner(shared)))
            self._set_shared(shared + added)

    def _step_own(self, op: OpSite, own_KBND: Tensor, tuners: dict[int, nn.Module]) -> Tensor:
        """Each member's rows get OP(x) + U(x); the op runs once on all of them."""
        added = list(op.run(own_KBND).chunk(len(self.split)))
        for place, (k, x_BND) in enumerate(zip(self.split, own_KBND.chunk(len(self.split)), strict=True)):
            if k in tuners:
                added[place] = added[place] + tuners[k](x_BND)
            added[place] = self._dropped(k, op, added[place])
        return own_KBND + _join(added)

    def _add_beside_block(
        self, whole: OpSite, before: tuple[Tensor | None, Tensor | None], split: Sequence[int]
    ) -> None:
        """Block tuners read what entered the block and add to what left it."""
        tuners = self._tuners(whole)
        if not tuners:
            return
        shared, own = before
        entered = dict(zip(split, () if own is None else own.chunk(len(split)), strict=True))
        added = {
            k: self._dropped(k, whole, tuner(entered[k] if k in entered else _present(shared)))
            for k, tuner in tuners.items()
        }
        if self.own is not None:
            rows = self.own.chunk(len(self.split))
            self.own = _join([x + added[k] if k in added else x for k, x in zip(self.split, rows, strict=True)])
        for k in [k for k in added if k not in self.split]:
            self._fork(k, _present(self.shared) + added[k])
        if self.shared is not None:
            self._set_shared(self.shared)

    def _tuners(self, site: OpSite) -> dict[int, nn.Module]:
        found = ((k, member.tuner_at(site)) for k, member in enumerate(self.members))
        return {k: tuner for k, tuner in found if tuner is not None}

    def _dropped(self, k: int, site: OpSite, added_BND: Tensor) -> Tensor:
        keep_B11 = self.members[k].keep_rows(site)
        return added_BND if keep_B11 is None else added_BND * keep_B11

    def _fork(self, k: int, x_BND: Tensor) -> None:
        self.own = x_BND if self.own is None else torch.cat([self.own, x_BND])
        self.split.append(k)

    def _set_shared(self, x_BND: Tensor) -> None:
        """Keep the shared rows only while somebody reads them."""
        self.shared = x_BND if len(self.split) < len(self.members) else None


def run_streams(trunk: Trunk, members: Sequence[Stream], images_B3HW: Tensor, *, trunk_trains: bool) -> list[Tensor]:
    """Features_BF of each member for one batch of normalised images.

    A trunk that trains has one member, whose rows are its own from the stem on.
    """
    if trunk_trains:
        streams = Streams(members, None, trunk.stem(images_B3HW))
    else:
        streams = Streams(members, _frozen(trunk.stem, images_B3HW))
    for block in trunk.blocks:
        streams.through(block)
    return streams.features(trunk)


def _frozen(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return run(x)


def _join(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _present(x: Tensor | None) -> Tensor:
    assert x is not None, "shared rows are kept while a member reads them"
    return x
