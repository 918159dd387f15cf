"""Rules for the backbone's own parameters that a member trains as copies of its own: all, biases, or the last blocks.

No tuner is added; the copies are saved with the member.
"""

from typing import Annotated

from utuning.architectures import BlockSite, OpSite, Trunk
from utuning.errors import PlacementError
from utuning.settings import AtLeast


def every_parameter(trunk: Trunk) -> frozenset[str]:
    """Full fine-tuning: all parameters of the model."""
    return frozenset(name for name, _ in trunk.model.named_parameters())


def biases(trunk: Trunk) -> frozenset[str]:
    """BitFit (arXiv 2106.10199) by VPT's rule: every parameter that is called a bias, those of norms and stem included.

    Tables of relative position biases are called so too.
    """
    names = (name for name, _ in trunk.model.named_parameters())
    return frozenset(name for name in names if "bias" in name.rpartition(".")[2])


def last_blocks(trunk: Trunk, *, num_blocks: Annotated[int, AtLeast(1)] = 1) -> frozenset[str]:
    """Partial-k, as in VPT's comparison: all parameters of the last k blocks, and of the final norm.

    A block takes with it the work that leads into it, such as a stage's downsampling.

    Raises:
        PlacementError: the backbone has fewer blocks.
    """
    if not 1 <= num_blocks <= len(trunk.blocks):
        raise PlacementError(
            f"partial: num_blocks {num_blocks} is given, and this backbone has {len(trunk.blocks)} blocks; "
            f"give 1 to {len(trunk.blocks)}"
        )
    chosen = set(trunk.norm.layers)
    for block in trunk.blocks[-num_blocks:]:
        for layers in _parts(block):
            holder = trunk.holder(layers)
            chosen |= {holder} if holder else layers
    names = (name for name, _ in trunk.model.named_parameters())
    return frozenset(name for name in names if any(name.startswith(f"{module}.") for module in chosen))


def _parts(block: BlockSite) -> list[set[str]]:
    """Names of the layers that lead into a block, and of its own."""
    ops = {name for site in (*block.ops, block.whole) for name in site.layers}
    return [part for part in (_layers(block.enter), ops) if part]


def _layers(site: OpSite | None) -> set[str]:
    return set() if site is None else set(site.layers)
