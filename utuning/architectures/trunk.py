"""What the engine knows of a backbone: a stem, a row of residual blocks with op sites, a final norm with pooling."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from utuning.architectures.sites import BlockSite, OpSite
from utuning.errors import BackboneError
from utuning.names import shared_path


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family of models, as functions of a model.

    `stem` is a site whose `run` embeds images into the stream; `norm` one whose `run` norms and pools the last stream
    into features_BF. `pool` pools tokens x_BND in the same way without any norm, for networks that bring their own.
    `isotropic` families keep one width and one number of tokens through all blocks.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    stem: Callable[[nn.Module], OpSite]
    blocks: Callable[[nn.Module], Sequence[BlockSite]]
    norm: Callable[[nn.Module], OpSite]
    pool: Callable[[nn.Module, Tensor], Tensor]
    isotropic: bool = True


class Trunk:
    """A model, seen as stem -> blocks -> norm -> pool. It wraps the model and never edits it."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        self.model = model
        self.architecture = architecture
        self.stem = architecture.stem(model)
        self.blocks = tuple(architecture.blocks(model))
        self.norm = architecture.norm(model)
        self._sites = {site.where: site for site in self.all_sites()}

    def all_sites(self) -> list[OpSite]:
        """Every site, in the order of a forward pass."""
        return [self.stem, *(site for block in self.blocks for site in block.sites), self.norm]

    @property
    def where(self) -> tuple[tuple[str, int], ...]:
        """The address of every site, in the order of a forward pass."""
        return tuple(self._sites)

    @property
    def width(self) -> int:
        """Width of the last stream."""
        return self.norm.width

    def site(self, kind: str, depth: int) -> OpSite:
        """Look up one op site."""
        return self._sites[kind, depth]

    def holder(self, layers: Collection[str]) -> str:
        """Name of the module that holds these layers and no other site's; empty if there is none.

        A block's module has parameters outside its layers: a table of position biases, a scale of its own.
        """
        path = shared_path(layers)
        others = {name for site in self.all_sites() for name in site.layers if name not in layers}
        return "" if not path or any(name.startswith(f"{path}.") for name in others) else path

    def pool(self, x_BND: Tensor) -> Tensor:
        """Pool tokens into (B, D) as the model does, without its norms."""
        return self.architecture.pool(self.model, x_BND)


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
