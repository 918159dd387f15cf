"""Op sites of timm's `EfficientNet` models: EfficientNet V1 and V2, MobileNet V1 and V2, MnasNet, MixNet and others.

A block without a skip adds nothing to the stream but takes its place; it is all `enter`.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from utuning.architectures.convolution import conv_block, conv_site, pool_pixels, run_chain
from utuning.architectures.sites import BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture

Block: TypeAlias = ConvBnAct | DepthwiseSeparableConv | EdgeResidual | InvertedResidual
BRANCH = {
    ConvBnAct: ("conv", "bn1", "aa", "drop_path"),
    DepthwiseSeparableConv: ("conv_dw", "bn1", "aa", "se", "conv_pw", "bn2", "drop_path"),
    InvertedResidual: ("conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3", "drop_path"),
    EdgeResidual: ("conv_exp", "bn1", "aa", "se", "conv_pwl", "bn2", "drop_path"),
}


def _matches(model: nn.Module) -> bool:
    return isinstance(model, EfficientNet) and all(type(block) in BRANCH for block in _modules(model))


def _modules(model: EfficientNet) -> list[Block]:
    return [block for stage in model.blocks for block in stage]


def _width(block: Block) -> int:
    width: int = block.feature_info("bottleneck")["num_chs"]
    return width


def _block_site(model: EfficientNet, block: Block, depth: int) -> BlockSite:
    branch = partial(run_chain, block, BRANCH[type(block)]) if block.has_skip else None
    return conv_block(model, block, depth, width=_width(block), branch=branch)


def _blocks(model: EfficientNet) -> Sequence[BlockSite]:
    return [_block_site(model, block, depth) for depth, block in enumerate(_modules(model))]


def _stem(model: EfficientNet) -> OpSite:
    return conv_site(
        kind="stem",
        depth=0,
        width=model.conv_stem.out_channels,
        run=partial(run_chain, model, ("conv_stem", "bn1")),
        layers=named_layers(model, model.conv_stem, model.bn1),
    )


def _features(model: EfficientNet, x_BDHW: Tensor) -> Tensor:
    features_BF: Tensor = model.forward_head(run_chain(model, ("conv_head", "bn2"), x_BDHW), pre_logits=True)
    return features_BF


def _norm(model: EfficientNet) -> OpSite:
    blocks = _modules(model)
    return conv_site(
        kind="norm",
        depth=len(blocks) - 1,
        width=_width(blocks[-1]),
        run=partial(_features, model),
        layers=named_layers(model, model.conv_head, model.bn2),
    )


def _pool(model: EfficientNet, x_BND: Tensor) -> Tensor:
    return pool_pixels(model.global_pool, x_BND)


EFFICIENTNET = Architecture(
    name="efficientnet", matches=_matches, stem=_stem, blocks=_blocks, norm=_norm, pool=_pool, isotropic=False
)
