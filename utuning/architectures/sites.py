"""Op sites: the places of a frozen backbone where a tuner can stand, and what a tuner may know of them.

Shape legend: B images, N tokens, M tokens of a prompt or prefix, D width, H heads, d width of a head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """How a family of models lays its stream out. Tuners see tokens (B, N, D) only."""

    name: str
    tokens: Callable[[Tensor], Tensor]
    stream: Callable[[Tensor, Tensor], Tensor]
    """Maps tokens back to a stream like the one given."""


BND = Layout("BND", lambda x: x, lambda tokens, like: tokens)
BHWD = Layout("BHWD", lambda x: x.flatten(1, 2), lambda tokens, like: tokens.reshape(like.shape))
BDHW = Layout(
    "BDHW", lambda x: x.flatten(2).transpose(1, 2), lambda tokens, like: tokens.transpose(1, 2).reshape(like.shape)
)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The frozen attention of a block, seen as projections of tokens x_BND before the block's norm.

    `project` gives q, k, v, each (B, H, N, d), as the block makes them: norm, projection, and what it does to queries
    and keys (norm, rotary position). `queries` is the q of it alone. `placeless` gives k and v for tokens that have no
    position, such as a prompt's. `output` maps z_BHNd through Wo and the layer scale, with Wo's bias or without.
    Scores are divided by sqrt(head_dim). `whole` tells whether every token attends to all others.
    """

    num_heads: int
    head_dim: int
    queries: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    placeless: Callable[[Tensor], tuple[Tensor, Tensor]]
    output: Callable[[Tensor, bool], Tensor]
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class OpSite:
    """A frozen operation that a tuner can stand beside, replace, or reach into.

    `run` maps the stream x to OP(x): with the operation's own norm, without the skip. `merge` puts x and what was added
    together; it is their sum unless the model does more. A `block` site's OP is the whole block, skips included.

    Attributes:
        kind: `attn`, `mlp`, `token_mlp`, `conv`, `block`; `stem` and `norm` are the ends of a trunk, `enter` is what
            lies between two blocks.
        depth: index of the block, from 0; the stem is at the first depth, the final norm at the last.
        width: D of the stream.
        layers: the frozen modules that `run` calls, by their name in the model.
        norm: the op's first norm, on tokens, if the op starts with one.
        attention: the attention of the block that the op belongs to, if it has one.
        grid: height and width of the image tokens, which are the last ones of a stream.
        open_sequence: whether `run` takes more tokens than the image has.
        pooled: the same op for the tokens that the model pools alone, which are the first ones: in a last block no
            other token's output is read.
    """

    kind: str
    depth: int
    width: int
    run: Callable[[Tensor], Tensor]
    layers: Mapping[str, nn.Module] = field(default_factory=dict)
    norm: nn.Module | None = None
    attention: Attention | None = None
    layout: Layout = BND
    grid: tuple[int, int] | None = None
    open_sequence: bool = False
    merge: Callable[[Tensor, Tensor], Tensor] = Tensor.add
    pooled: "OpSite | None" = None

    @property
    def where(self) -> tuple[str, int]:
        """Kind and depth: the site's address."""
        return self.kind, self.depth


@dataclass(frozen=True)
class BlockSite:
    """One residual block: its operations in the order in which they add to the stream, and itself as a site.

    `enter` is work between the last block and this one, such as a stage's downsampling. A block that changes the
    stream's shape, or adds nothing to it, is all `enter` and has no `ops`: no tuner can stand beside it, so `whole` is
    only its address then, and none of its sites.
    """

    ops: tuple[OpSite, ...]
    whole: OpSite
    enter: OpSite | None = None

    @property
    def sites(self) -> tuple[OpSite, ...]:
        """All of its sites, in the order of a forward pass."""
        return (*(() if self.enter is None else (self.enter,)), *self.ops, *((self.whole,) if self.ops else ()))


def named_layers(model: nn.Module, *parts: nn.Module) -> dict[str, nn.Module]:
    """The innermost modules with parameters below `parts`, by their name in the model.

    A norm that holds its activation is one, unless the activation has parameters.
    """
    wanted = {id(module) for part in parts for module in part.modules() if _is_layer(module)}
    return {name: module for name, module in model.named_modules() if id(module) in wanted}


def _is_layer(module: nn.Module) -> bool:
    return _has_parameters(module) and not any(map(_has_parameters, module.children()))


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
