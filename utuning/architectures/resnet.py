"""Op sites of timm's plain ResNets, ResNeXts and wide ResNets.

A block that changes the stream's shape, by its stride or width, is all `enter`.
"""

from collections.abc import Sequence
from functools import partial

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from utuning.architectures.convolution import conv_block, conv_site, pool_pixels, run_chain
from utuning.architectures.sites import BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture

BRANCH = {
    BasicBlock: ("conv1", "bn1", "act1", "conv2", "bn2"),
    Bottleneck: ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3"),
}
ACT = {BasicBlock: "act2", Bottleneck: "act3"}
"""The activation after the sum."""


def _matches(model: nn.Module) -> bool:
    return isinstance(model, ResNet) and all(_is_plain(block) for block in _modules(model))


def _is_plain(block: BasicBlock | Bottleneck) -> bool:
    """Without attention, anti-aliasing or dropped regions inside its branch."""
    return (
        type(block) in BRANCH
        and block.se is None
        and isinstance(block.aa, nn.Identity)
        and isinstance(block.drop_block, nn.Identity)
    )


def _modules(model: ResNet) -> list[BasicBlock | Bottleneck]:
    return [*model.layer1, *model.layer2, *model.layer3, *model.layer4]


def _branch(block: BasicBlock | Bottleneck, x_BDHW: Tensor) -> Tensor:
    added = run_chain(block, BRANCH[type(block)], x_BDHW)
    return added if block.drop_path is None else block.drop_path(added)


def _merge(block: BasicBlock | Bottleneck, x_BDHW: Tensor, added: Tensor) -> Tensor:
    y_BDHW: Tensor = getattr(block, ACT[type(block)])(x_BDHW + added)
    return y_BDHW


def _block_site(model: ResNet, block: BasicBlock | Bottleneck, depth: int) -> BlockSite:
    width = getattr(block, BRANCH[type(block)][-2]).out_channels
    branch = partial(_branch, block) if block.downsample is None else None
    return conv_block(model, block, depth, width=width, branch=branch, merge=partial(_merge, block))


def _blocks(model: ResNet) -> Sequence[BlockSite]:
    return [_block_site(model, block, depth) for depth, block in enumerate(_modules(model))]


def _stem(model: ResNet) -> OpSite:
    return conv_site(
        kind="stem",
        depth=0,
        width=model.feature_info[0]["num_chs"],
        run=partial(run_chain, model, ("conv1", "bn1", "act1", "maxpool")),
        layers=named_layers(model, model.conv1, model.bn1, model.maxpool),
    )


def _features(model: ResNet, x_BDHW: Tensor) -> Tensor:
    features_BF: Tensor = model.forward_head(x_BDHW, pre_logits=True)
    return features_BF


def _norm(model: ResNet) -> OpSite:
    depth, width = len(_modules(model)) - 1, model.num_features
    return conv_site(kind="norm", depth=depth, width=width, run=partial(_features, model))


def _pool(model: ResNet, x_BND: Tensor) -> Tensor:
    return pool_pixels(model.global_pool, x_BND)


RESNET = Architecture(
    name="resnet", matches=_matches, stem=_stem, blocks=_blocks, norm=_norm, pool=_pool, isotropic=False
)
