"""Op sites, found by looking at a model: one file and one row of `ARCHITECTURES` for each family of timm models.

Shape legend: B images, N tokens, D width, F features.
"""

from utuning.architectures.trunk import Architecture, BlockSite, OpSite, Trunk
from utuning.architectures.vit import VIT

ARCHITECTURES: tuple[Architecture, ...] = (VIT,)

__all__ = ["ARCHITECTURES", "Architecture", "BlockSite", "OpSite", "Trunk"]
