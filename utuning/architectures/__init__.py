"""Op sites, found by looking at a model: one file and one row of `ARCHITECTURES` for each family of timm models."""

from utuning.architectures.sites import Attention, BlockSite, Layout, OpSite
from utuning.architectures.trunk import Architecture, Trunk
from utuning.architectures.vit import VIT

ARCHITECTURES: tuple[Architecture, ...] = (VIT,)

__all__ = ["ARCHITECTURES", "Architecture", "Attention", "BlockSite", "Layout", "OpSite", "Trunk"]
