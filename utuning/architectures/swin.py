"""Op sites of timm's Swin transformers: V1, which norms first, and V2, which norms last."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeAlias

from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerStage
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block, SwinTransformerV2Stage
from torch import Tensor, nn

from utuning.architectures.sites import BHWD, BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture
from utuning.architectures.windowed import windowed_attention

Swin: TypeAlias = SwinTransformer | SwinTransformerV2
Stage: TypeAlias = SwinTransformerStage | SwinTransformerV2Stage
SwinBlock: TypeAlias = SwinTransformerBlock | SwinTransformerV2Block


def _matches(model: nn.Module) -> bool:
    return isinstance(model, Swin)


def _attn(block: SwinTransformerBlock, x_BHWD: Tensor) -> Tensor:
    added: Tensor = block.drop_path1(block._attn(block.norm1(x_BHWD)))
    return added


def _mlp(block: SwinTransformerBlock, x_BHWD: Tensor) -> Tensor:
    added: Tensor = block.drop_path2(block.mlp(block.norm2(x_BHWD)))
    return added


def _attn_then_norm(block: SwinTransformerV2Block, x_BHWD: Tensor) -> Tensor:
    added: Tensor = block.drop_path1(block.norm1(block._attn(x_BHWD)))
    return added


def _mlp_then_norm(block: SwinTransformerV2Block, x_BHWD: Tensor) -> Tensor:
    added: Tensor = block.drop_path2(block.norm2(block.mlp(x_BHWD)))
    return added


def _attn_layers(model: Swin, block: SwinBlock) -> Mapping[str, nn.Module]:
    if type(block) is SwinTransformerBlock:
        return named_layers(model, block.norm1, block.attn)
    # V2 calls its position bias's layers without images. Of a joint projection whose bias lies outside it, timm reads
    # the weight and calls nothing.
    attn = block.attn
    called = (attn.proj,) if attn.q_bias is not None and not attn.qkv_bias_separate else (attn.qkv, attn.proj)
    return named_layers(model, block.norm1, *called)


def _block_site(model: Swin, block: SwinBlock, depth: int, enter: OpSite | None) -> BlockSite:
    norm_first = type(block) is SwinTransformerBlock
    attn, mlp = (_attn, _mlp) if norm_first else (_attn_then_norm, _mlp_then_norm)
    norm1, norm2 = (block.norm1, block.norm2) if norm_first else (None, None)
    site = partial(
        OpSite,
        depth=depth,
        width=block.dim,
        # V2 compares directions, scaled by a learned number, where others divide by sqrt(head_dim).
        attention=windowed_attention(block) if norm_first else None,
        layout=BHWD,
        grid=tuple(block.input_resolution),
    )
    attn_layers, mlp_layers = _attn_layers(model, block), named_layers(model, block.norm2, block.mlp)
    return BlockSite(
        ops=(
            site(kind="attn", run=partial(attn, block), norm=norm1, layers=attn_layers),
            site(kind="mlp", run=partial(mlp, block), norm=norm2, layers=mlp_layers),
        ),
        whole=site(kind="block", run=block, layers={**attn_layers, **mlp_layers}),
        enter=enter,
    )


def _enter(model: Swin, stage: Stage, depth: int) -> OpSite | None:
    if isinstance(stage.downsample, nn.Identity):
        return None
    layers = named_layers(model, stage.downsample)
    width = stage.downsample.out_dim
    return OpSite(kind="enter", depth=depth, width=width, run=stage.downsample, layers=layers, layout=BHWD)


def _blocks(model: Swin) -> Sequence[BlockSite]:
    sites: list[BlockSite] = []
    for stage in model.layers:
        enter = _enter(model, stage, len(sites))
        for block in stage.blocks:
            sites.append(_block_site(model, block, len(sites), enter))
            enter = None
    return sites


def _stem(model: Swin) -> OpSite:
    layers = named_layers(model, model.patch_embed)
    return OpSite(kind="stem", depth=0, width=model.embed_dim, run=model.patch_embed, layers=layers, layout=BHWD)


def _features(model: Swin, x_BHWD: Tensor) -> Tensor:
    features_BF: Tensor = model.forward_head(model.norm(x_BHWD), pre_logits=True)
    return features_BF


def _norm(model: Swin) -> OpSite:
    last = model.layers[-1].blocks
    return OpSite(
        kind="norm",
        depth=sum(len(stage.blocks) for stage in model.layers) - 1,
        width=last[-1].dim,
        run=partial(_features, model),
        layers=named_layers(model, model.norm),
        layout=BHWD,
        grid=tuple(last[-1].input_resolution),
    )


def _pool(model: Swin, x_BND: Tensor) -> Tensor:
    pooled_BD: Tensor = model.head.global_pool(x_BND.unsqueeze(1))
    return pooled_BD


SWIN = Architecture(name="swin", matches=_matches, stem=_stem, blocks=_blocks, norm=_norm, pool=_pool, isotropic=False)
