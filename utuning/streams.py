"""Copy-on-write streams: many members' rows through one frozen trunk.

Rows start shared by all members. A member's rows split off where it first changes the stream; until then the frozen ops
run once, without autograd, for everybody. Afterwards the rows of all members that have split run together, one call an
op: an op is frozen and row-wise, so running it on K members' rows together equals running it K times. Members whose
rows have other shapes (a prompt's tokens), or that train a copy of the op's own weights, run in groups of their own.
A side network reads the states and splits nothing. A stream may take some of the batch's images alone, and one image
several times: its rows are picked where it splits, and shared rows that nobody reads any more go no further.
Equations (U-Tuning, arXiv 2303.00690, fig. 4a): x' = x + OP(x) + U(x) at an op, y = Block(x) + U(x) at a block.

Shape legend: B images of a batch, N tokens, D width, F features. x is a stream in the trunk's own layout.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from utuning.architectures import BlockSite, OpSite, Trunk
from utuning.shared_rows import SharedRows
from utuning.taps import Taps, tapped
from utuning.tuners.roles import Beside, Instead, Side, Tokens

T = TypeVar("T")


class Stream(Protocol):
    """What the streams need to know of a member. A site is the shared trunk's; `own` gives the member's copy of it."""

    side: Side | None
    """The network beside the backbone, if any."""
    images: Sequence[int] | None
    """Which of the batch's images its rows are of, by place; None: all, in order."""
    reads_all_tokens: bool
    """Whether it needs every token of the last block, not those alone that are pooled."""

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

    def __init__(self, trunk: Trunk, members: Sequence[Stream], shared: SharedRows) -> None:
        self.trunk, self.members, self.shared = trunk, members, shared
        self.prompts: dict[int, int] = {}
        self._sides = [(k, side) for k, member in enumerate(members) if (side := member.side) is not None]
        reaching = [k for k in self._all() if reaches(members[k], trunk.stem)]
        images = {k: shared.of(members[k].images, present(shared.images_B3HW)) for k in reaching}
        self.rows: dict[int, Tensor] = self._outputs(trunk.stem, images)
        self._narrow()
        self.carried: dict[int, Any] = {
            k: side.start(trunk.blocks[0].whole.layout.tokens(self._entering(k, 0))) for k, side in self._sides
        }

    def through(self, depth: int) -> None:
        """Run one block for everybody."""
        self._narrow()
        block = self.trunk.blocks[depth]
        reading = [k for k in self._all() if self.members[k].beside(block.whole) is not None]
        self._enter(block, depth)
        before = {k: self._before(k, depth) for k in {*reading, *(k for k, _ in self._sides)}}
        for place, op in enumerate(block.ops):
            self._through_op(op, depth, place)
        for k in reading:
            left = self._entering(k, depth + 1)
            self.rows[k] = left + self._beside(k, block.whole, before[k], left)
        for k, side in self._sides:
            self._beside_all(k, side, block.whole, before[k])

    def features(self) -> list[Tensor]:
        """Norm and pool the stream into features_BF, one for each member; members that changed nothing share theirs."""
        return [self._features(k) for k in self._all()]

    def _enter(self, block: BlockSite, depth: int) -> None:
        """Between two blocks: the trunk's own frozen work, and prompts that enter."""
        if block.enter is not None:
            reaching = {k: self._entering(k, depth) for k in self._sharing() if reaches(self.members[k], block.enter)}
            self.rows = self._outputs(block.enter, self.rows | reaching)
        for k in self._all():
            prompt = self.members[k].tokens(block.whole)
            if prompt is not None:
                self.rows[k] = prompt(self._before(k, depth), self.prompts.get(k, 0))
                self.prompts[k] = prompt.num_tokens

    def _through_op(self, op: OpSite, depth: int, place: int) -> None:
        """x' = x + OP(x) + U(x) for every member that has its own rows, or gets them here."""
        self._narrow()
        sharing = self._sharing()
        reaching = {k: self._before(k, depth, place) for k in sharing if reaches(self.members[k], op)}
        x = self.rows | reaching
        given = self._outputs(op, x)
        for k in sharing:
            if k not in reaching and self.members[k].beside(op) is not None:
                x[k], given[k] = self._before(k, depth, place), self._picked(k, self.shared.given(depth, place))
        self.rows = {k: self._merged(k, op, x[k], given[k]) for k in x}

    def _merged(self, k: int, op: OpSite, x: Tensor, given: Tensor) -> Tensor:
        """One member's stream after an op that gave `given`."""
        member = self.members[k]
        keep_B = member.keep_rows(op)
        if member.beside(op) is not None:
            given = given + self._beside(k, op, x, given)
        if keep_B is not None:
            given = given * keep_B.view(-1, *[1] * (given.ndim - 1))
        return self._site(k, op).merge(x, given)

    def _beside_all(self, k: int, side: Side, whole: OpSite, before: Tensor) -> None:
        """A side network reads what entered and left a block, and may add to what left it."""
        left = self._entering(k, whole.depth + 1)
        tokens = whole.layout.tokens
        self.carried[k], added = side.step(whole.depth, tokens(before), tokens(left), self.carried[k])
        if added is not None:
            self.rows[k] = left + whole.layout.stream(added, left)

    def _outputs(self, op: OpSite, x: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """What an op gives for each member's own rows; those that can, run together."""
        outputs: dict[int, Tensor] = {}
        groups: dict[Any, list[int]] = {}
        for k in x:
            instead = self.members[k].instead(op)
            if instead is not None:
                outputs[k] = op.layout.stream(instead(op.layout.tokens(x[k])), x[k])
            else:
                groups.setdefault((id(self._site(k, op)), x[k].shape[1:]), []).append(k)
        for group in groups.values():
            site, num_rows = self._site(group[0], op), [x[k].shape[0] for k in group]
            with tapped(site.layers, [self.members[k].taps(op) for k in group], num_rows):
                given = site.run(_join([x[k] for k in group]))
            outputs |= dict(zip(group, torch.split(given, num_rows), strict=True))
        return outputs

    def _site(self, k: int, op: OpSite) -> OpSite:
        """The op that a member's own rows pass: its own copy, and for the pooled tokens alone if it reads no others."""
        member = self.members[k]
        site = member.own(op) or op
        return site if member.reads_all_tokens else site.pooled or site

    def _beside(self, k: int, site: OpSite, x: Tensor, given: Tensor) -> Tensor:
        """What a tuner adds to an op; where the op gave the pooled tokens alone, these are the first ones."""
        tuner, tokens = present(self.members[k].beside(site)), site.layout.tokens
        given_BND = tokens(given)
        return site.layout.stream(tuner(tokens(x), given_BND)[:, : given_BND.shape[1]], given)

    def _features(self, k: int) -> Tensor:
        member, norm = self.members[k], self.trunk.norm
        if not self._changes(k):
            return self._picked(k, self.shared.features())
        x = self._without_prompt(k)
        if member.side is not None:
            return member.side.features(norm.layout.tokens(x), self.carried[k])
        return self._outputs(norm, {k: x})[k]

    def _changes(self, k: int) -> bool:
        """Whether a member's features are other than the frozen backbone's."""
        member = self.members[k]
        return k in self.rows or member.side is not None or reaches(member, self.trunk.norm)

    def _without_prompt(self, k: int) -> Tensor:
        """Prompts stand right before the image tokens, which are the last ones; pooled tokens alone have none."""
        x, num_tokens = self._entering(k, len(self.trunk.blocks)), self.prompts.get(k, 0)
        height, width = self.trunk.norm.grid or (0, 0)
        first = x.shape[1] - height * width - num_tokens if num_tokens else -1
        return x if first < 0 else torch.cat([x[:, :first], x[:, first + num_tokens :]], dim=1)

    def _all(self) -> range:
        return range(len(self.members))

    def _sharing(self) -> list[int]:
        return [k for k in self._all() if k not in self.rows]

    def _narrow(self) -> None:
        """Leave out the shared rows of images that nobody shares any more."""
        images = [self.members[k].images for k in self._sharing()]
        if images and None not in images:
            self.shared.narrow({image for each in images for image in each or ()})

    def _picked(self, k: int, shared: Tensor) -> Tensor:
        return self.shared.of(self.members[k].images, shared)

    def _entering(self, k: int, depth: int) -> Tensor:
        return self.rows[k] if k in self.rows else self._picked(k, self.shared.entering(depth))

    def _before(self, k: int, depth: int, place: int = 0) -> Tensor:
        return self.rows[k] if k in self.rows else self._picked(k, self.shared.before(depth, place))


def run_streams(trunk: Trunk, members: Sequence[Stream], images_B3HW: Tensor) -> list[Tensor]:
    """Features_BF of each member for one batch of normalised images."""
    return run_shared(trunk, members, shared_rows(trunk, members, images_B3HW))


def run_shared(trunk: Trunk, members: Sequence[Stream], shared: SharedRows) -> list[Tensor]:
    """Features_BF of each member, over shared rows that nobody has read yet."""
    streams = Streams(trunk, members, shared)
    for depth in range(len(trunk.blocks)):
        streams.through(depth)
    return streams.features()


def shared_rows(trunk: Trunk, members: Sequence[Stream], images_B3HW: Tensor | None, **states: Any) -> SharedRows:
    """The rows that these members share; `states` are the known and the wanted ones of `SharedRows`."""
    return SharedRows(trunk, images_B3HW, pooled=not any(member.reads_all_tokens for member in members), **states)


def states_read(trunk: Trunk, member: Stream) -> frozenset[int]:
    """The states of the shared stream that a member reads, by depth; -1 stands for the images themselves."""
    num_blocks = len(trunk.blocks)
    if reaches(member, trunk.stem):
        return frozenset({-1})
    if member.side is not None:
        return frozenset(range(num_blocks + 1))
    for depth, block in enumerate(trunk.blocks):
        sites = [*block.ops, *([] if block.enter is None else [block.enter])]
        beside = any(member.beside(site) is not None for site in (*sites, block.whole))
        if beside or member.tokens(block.whole) is not None or any(reaches(member, site) for site in sites):
            return frozenset({depth})
    return frozenset({num_blocks if reaches(member, trunk.norm) else num_blocks + 1})


def reaches(member: Stream, site: OpSite) -> bool:
    """Whether a member changes what the frozen op itself gives."""
    return bool(member.taps(site)) or member.instead(site) is not None or member.own(site) is not None


def present(value: T | None) -> T:
    """What the order of the work guarantees to be there."""
    assert value is not None
    return value


def _join(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)
