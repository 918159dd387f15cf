"""Op sites of timm's ConvNeXt, V1 and V2."""

from collections.abc import Sequence
from functools import partial

from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from torch import Tensor, nn

from utuning.architectures.convolution import conv_block, conv_site, pool_pixels
from utuning.architectures.sites import BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture


def _matches(model: nn.Module) -> bool:
    return isinstance(model, ConvNeXt) and all(
        type(block) is ConvNeXtBlock and isinstance(block.shortcut, nn.Identity)
        for stage in model.stages
        for block in stage.blocks
    )


def _branch(block: ConvNeXtBlock, x_BDHW: Tensor) -> Tensor:
    y_BDHW = block.conv_dw(x_BDHW)
    if block.use_conv_mlp:
        y_BDHW = block.mlp(block.norm(y_BDHW))
    else:
        y_BDHW = block.mlp(block.norm(y_BDHW.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    if block.gamma is not None:
        y_BDHW = y_BDHW * block.gamma.reshape(1, -1, 1, 1)
    added: Tensor = block.drop_path(y_BDHW)
    return added


def _enter(model: ConvNeXt, stage: ConvNeXtStage, depth: int) -> OpSite | None:
    if isinstance(stage.downsample, nn.Identity):
        return None
    layers, width = named_layers(model, stage.downsample), _width(stage)
    return conv_site(kind="enter", depth=depth, width=width, run=stage.downsample, layers=layers)


def _width(stage: ConvNeXtStage) -> int:
    width: int = stage.blocks[0].conv_dw.out_channels
    return width


def _blocks(model: ConvNeXt) -> Sequence[BlockSite]:
    sites: list[BlockSite] = []
    for stage in model.stages:
        enter = _enter(model, stage, len(sites))
        for block in stage.blocks:
            branch = partial(_branch, block)
            sites.append(conv_block(model, block, len(sites), width=_width(stage), branch=branch, enter=enter))
            enter = None
    return sites


def _stem(model: ConvNeXt) -> OpSite:
    width = _width(model.stages[0])
    return conv_site(kind="stem", depth=0, width=width, run=model.stem, layers=named_layers(model, model.stem))


def _features(model: ConvNeXt, x_BDHW: Tensor) -> Tensor:
    features_BF: Tensor = model.forward_head(model.norm_pre(x_BDHW), pre_logits=True)
    return features_BF


def _norm(model: ConvNeXt) -> OpSite:
    return conv_site(
        kind="norm",
        depth=sum(len(stage.blocks) for stage in model.stages) - 1,
        width=model.num_features,
        run=partial(_features, model),
        layers=named_layers(model, model.norm_pre, model.head),
    )


def _pool(model: ConvNeXt, x_BND: Tensor) -> Tensor:
    return pool_pixels(model.head.global_pool, x_BND)


CONVNEXT = Architecture(
    name="convnext", matches=_matches, stem=_stem, blocks=_blocks, norm=_norm, pool=_pool, isotropic=False
)
