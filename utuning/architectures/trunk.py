"""What the engine knows of a backbone: a stem, a row of residual blocks with op sites, and a pooling to features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from utuning.errors import BackboneError


@dataclass(frozen=True)
class OpSite:
    """A place where a tuner can stand beside a frozen operation.

    `run` maps the residual stream x_BND to OP(x)_BND: with the operation's own norm, without the skip. `block` is the
    frozen module that it belongs to; tuners may read its projections, never train them.
    """

    kind: str
    depth: int
    width: int
    block: nn.Module
    run: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BlockSite:
    """One residual block: its operations in the order in which they add to the stream, and itself as a site."""

    ops: tuple[OpSite, ...]
    whole: OpSite


@dataclass(frozen=True)
class Architecture:
    """One family of models, in four functions of a model."""

    name: str
    matches: Callable[[nn.Module], bool]
    stem: Callable[[nn.Module, Tensor], Tensor]
    blocks: Callable[[nn.Module], Sequence[BlockSite]]
    features: Callable[[nn.Module, Tensor], Tensor]


class Trunk:
    """A model, seen as stem -> blocks -> features. It wraps the model and never edits it."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        self.model = model
        self.architecture = architecture
        self.blocks = tuple(architecture.blocks(model))

    @property
    def op_kinds(self) -> tuple[str, ...]:
        """The op kinds of this model, in the order of a forward pass; `block` is the last."""
        return (*dict.fromkeys(op.kind for block in self.blocks for op in block.ops), self.blocks[0].whole.kind)

    def site(self, kind: str, depth: int) -> OpSite:
        """Look up one op site."""
        block = self.blocks[depth]
        return next(site for site in (*block.ops, block.whole) if site.kind == kind)

    def stem(self, images_B3HW: Tensor) -> Tensor:
        """Embed normalised images into the residual stream x_BND."""
        return self.architecture.stem(self.model, images_B3HW)

    def features(self, x_BND: Tensor) -> Tensor:
        """Norm and pool the residual stream into features_BF."""
        return self.architecture.features(self.model, x_BND)


def find_architecture(model: nn.Module, table: Sequence[Architecture]) -> Architecture:
    """Find the row that knows this model.

    Raises:
        BackboneError: no row does.
    """
    for row in table:
        if row.matches(model):
            return row
    known = ", ".join(row.name for row in table)
    raise BackboneError(f"no op sites are known for a {type(model).__name__}; known families of timm models: {known}")
