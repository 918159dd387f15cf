"""Op sites, found by looking at a model: one file and one row of `ARCHITECTURES` for each family of timm models."""

from utuning.architectures.convnext import CONVNEXT
from utuning.architectures.efficientnet import EFFICIENTNET
from utuning.architectures.eva import EVA
from utuning.architectures.mixer import MIXER
from utuning.architectures.resnet import RESNET
from utuning.architectures.sites import Attention, BlockSite, Layout, OpSite
from utuning.architectures.swin import SWIN
from utuning.architectures.trunk import Architecture, Trunk
from utuning.architectures.vit import VIT

ARCHITECTURES: tuple[Architecture, ...] = (VIT, EVA, SWIN, CONVNEXT, MIXER, RESNET, EFFICIENTNET)

__all__ = ["ARCHITECTURES", "Architecture", "Attention", "BlockSite", "Layout", "OpSite", "Trunk"]
