"""Copy-on-write streams: many members' rows through one frozen trunk.

Rows start shared by all members. A member's rows split off where it first changes the stream; until then the frozen ops
run once, without autograd, for everybody. Afterwards the rows of all members that have split run together, one call an
op: an op is frozen and row-wise, so running it on K members' rows together equals running it K times. Members whose
rows have other shapes (a prompt's tokens), or that train a copy of the op's own weights, run in groups of their own.
A side network reads the states and splits nothing.
Equations (U-Tuning, arXiv 2303.00690, fig. 4a): x' = x + OP(x) + U(x) at an op, y = Block(x) + U(x) at a block.

Shape legend: B images of a batch, N tokens, D width, F features. x is a stream in the trunk's own layout.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from utuning.architectures import BlockSite, OpSite, Trunk
from utuning.taps import Taps, tapped
from utuning.tuners.roles import Beside, Instead, Side, Tokens


class Stream(Protocol):
    """What the streams need to know of a member. A site is the shared trunk's; `own` gives the member's copy of it."""

    @property
    def side(self) -> Side | None:
        """The network beside the backbone, if any."""

    def own(self, site: OpSite) -> OpSite | None:
        """The same site of a trunk whose weights this member trains, from the first trained weight on."""

    def beside(self, site: OpSite) -> Beside | None:
        """The tuner that stands beside this op, if any."""

    def instead(self, site: OpSite) -> Instead | None:
        """The tuner that replaces this op, if any."""

    def taps(self, site: OpSite) -> Taps:
        """What changes the outputs of this op's layers."""

    def tokens(self, site: OpSite) -> Tokens | None:
        """The prompt that enters the stream before this block, if any."""

    def keep_rows(self, site: OpSite) -> Tensor | None:
        """Drop-path: what each row's branch is multiplied with, shape (B,); None keeps all."""


class Streams:
    """The residual stream of one batch: shared rows, and rows of their own for the members that have split."""

    def __init__(self, trunk: Trunk, members: Sequence[Stream], images_B3HW: Tensor) -> None:
        self.trunk, self.members = trunk, members
        self.rows: dict[int, Tensor] = {}
        self.prompts: dict[int, int] = {}
        self.shared: Tensor | None = images_B3HW
        stem = trunk.stem
        self.rows = self._outputs(stem, {k: images_B3HW for k in self._all() if self._reaches(k, stem)})
        self.shared = _frozen(stem.run, images_B3HW) if self._sharing() else None
        self.carried: dict[int, Any] = {
            k: side.start(self._tokens(k, trunk.blocks[0].whole)) for k, side in self._sides()
        }

    def through(self, block: BlockSite) -> None:
        """Run one block for everybody."""
        self._enter(block)
        shared, rows = self.shared, dict(self.rows)
        for op in block.ops:
            self._through_op(op)
        self._beside_block(block.whole, shared, rows)
        for k, side in self._sides():
            before = block.whole.layout.tokens(rows[k] if k in rows else _present(shared))
            after = self._tokens(k, block.whole)
            self.carried[k], added = side.step(block.whole.depth, before, after, self.carried[k])
            if added is not None:
                self.rows[k] = block.whole.layout.stream(after + added, self._x(k))
        self._release()

    def features(self) -> list[Tensor]:
        """Norm and pool the stream into features_BF, one for each member; members that changed nothing share theirs."""
        plain = self._plain()
        shared = _frozen(self.trunk.norm.run, _present(self.shared)) if plain else None
        return [_present(shared) if k in plain else self._features(k) for k in self._all()]

    def _enter(self, block: BlockSite) -> None:
        """Between two blocks: the trunk's own frozen work, and prompts that enter."""
        if block.enter is not None:
            reaching = {k: self._x(k) for k in self._sharing() if self._reaches(k, block.enter)}
            self.rows = self._outputs(block.enter, self.rows | reaching)
            self.shared = _frozen(block.enter.run, _present(self.shared)) if self._sharing() else None
        for k in self._all():
            prompt = self.members[k].tokens(block.whole)
            if prompt is not None:
                self.rows[k] = prompt(self._x(k), self.prompts.get(k, 0))
                self.prompts[k] = prompt.num_tokens
        self._release()

    def _through_op(self, op: OpSite) -> None:
        """x' = x + OP(x) + U(x) for every member that has its own rows, or gets them here."""
        reaching = [k for k in self._sharing() if self._reaches(k, op)]
        own = self._outputs(op, self.rows | {k: self._x(k) for k in reaching})
        common = _frozen(op.run, _present(self.shared)) if len(reaching) < len(self._sharing()) else None
        forking = [k for k in self._sharing() if k not in own and self.members[k].beside(op) is not None]
        changed = {k: self._merged(k, op, own[k] if k in own else _present(common)) for k in (*own, *forking)}
        if common is not None:
            self.shared = op.merge(_present(self.shared), common)
        self.rows |= changed
        self._release()

    def _merged(self, k: int, op: OpSite, given: Tensor) -> Tensor:
        """One member's stream after an op that gave `given`."""
        x, member = self._x(k), self.members[k]
        tuner, keep_B = member.beside(op), member.keep_rows(op)
        if tuner is not None:
            given = given + self._beside(tuner, op, x, given)
        if keep_B is not None:
            given = given * keep_B.view(-1, *[1] * (given.ndim - 1))
        site = member.own(op) or op
        return site.merge(x, given)

    def _beside_block(self, whole: OpSite, shared: Tensor | None, rows: Mapping[int, Tensor]) -> None:
        """Block tuners read what entered the block and add to what left it."""
        found = {k: tuner for k in self._all() if (tuner := self.members[k].beside(whole)) is not None}
        for k, tuner in found.items():
            left = self._x(k)
            self.rows[k] = left + self._beside(tuner, whole, rows[k] if k in rows else _present(shared), left)

    def _outputs(self, op: OpSite, x: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """What an op gives for each member's own rows; those that can, run together."""
        outputs: dict[int, Tensor] = {}
        groups: dict[Any, list[int]] = {}
        for k in x:
            instead = self.members[k].instead(op)
            if instead is not None:
                outputs[k] = op.layout.stream(instead(op.layout.tokens(x[k])), x[k])
            else:
                groups.setdefault((id(self.members[k].own(op)), x[k].shape), []).append(k)
        for group in groups.values():
            site = self.members[group[0]].own(op) or op
            with tapped(site.layers, [self.members[k].taps(op) for k in group]):
                given = site.run(_join([x[k] for k in group]))
            outputs |= dict(zip(group, given.chunk(len(group)), strict=True))
        return outputs

    def _beside(self, tuner: Beside, site: OpSite, x: Tensor, given: Tensor) -> Tensor:
        tokens = site.layout.tokens
        return site.layout.stream(tuner(tokens(x), tokens(given)), given)

    def _reaches(self, k: int, site: OpSite) -> bool:
        """Whether a member changes what the frozen op itself gives."""
        member = self.members[k]
        return bool(member.taps(site)) or member.instead(site) is not None or member.own(site) is not None

    def _features(self, k: int) -> Tensor:
        member, norm = self.members[k], self.trunk.norm
        x = self._without_prompt(k)
        if member.side is not None:
            return member.side.features(norm.layout.tokens(x), self.carried[k])
        return self._outputs(norm, {k: x})[k]

    def _without_prompt(self, k: int) -> Tensor:
        """Prompts stand right before the image tokens, which are the last ones."""
        x, num_tokens = self._x(k), self.prompts.get(k, 0)
        if num_tokens == 0:
            return x
        height, width = self.trunk.norm.grid or (0, 0)
        first = x.shape[1] - height * width - num_tokens
        return torch.cat([x[:, :first], x[:, first + num_tokens :]], dim=1)

    def _plain(self) -> list[int]:
        """Members whose features are the frozen backbone's."""
        return [k for k in self._sharing() if not self._reaches(k, self.trunk.norm) and self.members[k].side is None]

    def _all(self) -> range:
        return range(len(self.members))

    def _sides(self) -> list[tuple[int, Side]]:
        return [(k, side) for k in self._all() if (side := self.members[k].side) is not None]

    def _sharing(self) -> list[int]:
        return [k for k in self._all() if k not in self.rows]

    def _x(self, k: int) -> Tensor:
        return self.rows[k] if k in self.rows else _present(self.shared)

    def _tokens(self, k: int, site: OpSite) -> Tensor:
        return site.layout.tokens(self._x(k))

    def _release(self) -> None:
        """Keep the shared rows only while somebody reads them."""
        if not self._sharing():
            self.shared = None


def run_streams(trunk: Trunk, members: Sequence[Stream], images_B3HW: Tensor) -> list[Tensor]:
    """Features_BF of each member for one batch of normalised images."""
    streams = Streams(trunk, members, images_B3HW)
    for block in trunk.blocks:
        streams.through(block)
    return streams.features()


def _frozen(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return run(x)


def _join(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _present(x: Tensor | None) -> Tensor:
    assert x is not None, "shared rows are kept while a member reads them"
    return x
