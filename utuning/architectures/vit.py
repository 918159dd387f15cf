"""Op sites of timm's plain pre-norm vision transformers (ViT, DeiT, DINOv2's layout, CLIP's and MAE's towers)."""

from collections.abc import Sequence
from functools import partial

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from utuning.architectures.trunk import Architecture, BlockSite, OpSite


def _matches(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer) and all(type(block) is Block for block in model.blocks)


def _attn(block: Block, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path1(block.ls1(block.attn(block.norm1(x_BND))))
    return added


def _mlp(block: Block, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x_BND))))
    return added


def _block_site(model: VisionTransformer, depth: int) -> BlockSite:
    block = model.blocks[depth]
    site = partial(OpSite, depth=depth, width=model.embed_dim, block=block)
    return BlockSite(
        ops=(site(kind="attn", run=partial(_attn, block)), site(kind="mlp", run=partial(_mlp, block))),
        whole=site(kind="block", run=lambda x_BND: block(x_BND) - x_BND),
    )


def _blocks(model: nn.Module) -> Sequence[BlockSite]:
    assert isinstance(model, VisionTransformer)
    return [_block_site(model, depth) for depth in range(len(model.blocks))]


def _stem(model: nn.Module, images_B3HW: Tensor) -> Tensor:
    assert isinstance(model, VisionTransformer)
    x_BND: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images_B3HW))))
    return x_BND


def _features(model: nn.Module, x_BND: Tensor) -> Tensor:
    assert isinstance(model, VisionTransformer)
    features_BF: Tensor = model.forward_head(model.norm(x_BND), pre_logits=True)
    return features_BF


VIT = Architecture(name="vit", matches=_matches, stem=_stem, blocks=_blocks, features=_features)
