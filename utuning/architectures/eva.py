"""Op sites of timm's `Eva` transformers: EVA, EVA-02, ViTs with rotary position, DINOv3, the Perception Encoder."""

from collections.abc import Mapping, Sequence
from functools import partial

from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from utuning.architectures.rotary import Rope, has_outer_bias, rotary_attention, scaled
from utuning.architectures.sequence import pool_sequence, sequence_norm
from utuning.architectures.sites import BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture


def _matches(model: nn.Module) -> bool:
    return isinstance(model, Eva) and all(type(block) in (EvaBlock, EvaBlockPostNorm) for block in model.blocks)


def _rope(model: Eva, depth: int) -> Tensor | None:
    """The block's rotary position, for the image size that the model is built for."""
    if model.rope is None:
        return None
    kept = not model.dynamic_img_size and hasattr(model.rope, "feat_shape")
    rope: Tensor = model.rope.get_embed() if kept else model.rope.get_embed(shape=model.patch_embed.grid_size)
    return rope[depth] if model.rope_mixed else rope


def _attn(block: EvaBlock, rope: Rope, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path1(scaled(block.gamma_1, block.attn(block.norm1(x_BND), rope=rope())))
    return added


def _mlp(block: EvaBlock, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path2(scaled(block.gamma_2, block.mlp(block.norm2(x_BND))))
    return added


def _attn_then_norm(block: EvaBlockPostNorm, rope: Rope, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path1(block.norm1(block.attn(x_BND, rope=rope())))
    return added


def _mlp_then_norm(block: EvaBlockPostNorm, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path2(block.norm2(block.mlp(x_BND)))
    return added


def _whole(block: EvaBlock | EvaBlockPostNorm, rope: Rope, x_BND: Tensor) -> Tensor:
    y_BND: Tensor = block(x_BND, rope=rope())
    return y_BND


def _attn_layers(model: Eva, block: EvaBlock | EvaBlockPostNorm) -> Mapping[str, nn.Module]:
    """Without a joint projection whose weight timm reads and which it never calls."""
    layers, attn = named_layers(model, block.norm1, block.attn), block.attn
    only_read = attn.qkv if has_outer_bias(attn) and not attn.qkv_bias_separate else None
    return {name: layer for name, layer in layers.items() if layer is not only_read}


def _block_site(model: Eva, depth: int) -> BlockSite:
    block, rope = model.blocks[depth], partial(_rope, model, depth)
    norm_first = type(block) is EvaBlock
    attn, mlp = (_attn, _mlp) if norm_first else (_attn_then_norm, _mlp_then_norm)
    # Rotary position counts the tokens, so no prompt can enter.
    site = partial(
        OpSite,
        depth=depth,
        width=model.embed_dim,
        # A norm behind it makes the output more than a projection.
        attention=rotary_attention(block, rope) if norm_first else None,
        grid=tuple(model.patch_embed.grid_size),
    )
    attn_layers, mlp_layers = _attn_layers(model, block), named_layers(model, block.norm2, block.mlp)
    norm1, norm2 = (block.norm1, block.norm2) if norm_first else (None, None)
    return BlockSite(
        ops=(
            site(kind="attn", run=partial(attn, block, rope), norm=norm1, layers=attn_layers),
            site(kind="mlp", run=partial(mlp, block), norm=norm2, layers=mlp_layers),
        ),
        whole=site(kind="block", run=partial(_whole, block, rope), layers={**attn_layers, **mlp_layers}),
    )


def _blocks(model: Eva) -> Sequence[BlockSite]:
    return [_block_site(model, depth) for depth in range(len(model.blocks))]


def _embed(model: Eva, images_B3HW: Tensor) -> Tensor:
    x_BND: Tensor = model.norm_pre(model._pos_embed(model.patch_embed(images_B3HW))[0])
    return x_BND


def _stem(model: Eva) -> OpSite:
    layers = named_layers(model, model.patch_embed, model.norm_pre)
    return OpSite(kind="stem", depth=0, width=model.embed_dim, run=partial(_embed, model), layers=layers)


EVA = Architecture(name="eva", matches=_matches, stem=_stem, blocks=_blocks, norm=sequence_norm, pool=pool_sequence)
