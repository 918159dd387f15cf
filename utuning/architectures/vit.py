"""Op sites of timm's plain pre-norm vision transformers: ViT, DeiT with its distillation token, DINOv2 with registers
and layer scale, CLIP's and MAE's towers."""

from collections.abc import Sequence
from functools import partial

from timm.layers import Attention as TimmAttention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from utuning.architectures.sequence import pool_sequence, sequence_norm
from utuning.architectures.sites import Attention, BlockSite, OpSite, named_layers
from utuning.architectures.trunk import Architecture


def _matches(model: nn.Module) -> bool:
    return isinstance(model, VisionTransformer) and all(type(block) is Block for block in model.blocks)


def _attn(block: Block, x_BND: Tensor) -> Tensor:
    if not _is_plain(block):
        added: Tensor = block.drop_path1(block.ls1(block.attn(block.norm1(x_BND))))
        return added
    return _attend(block, x_BND, x_BND.shape[1])


def _mlp(block: Block, x_BND: Tensor) -> Tensor:
    added: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x_BND))))
    return added


def _project(block: Block, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the block itself makes them, each (B, H, N, d).

    They are cut from the projection's last dimension, as their gradients are laid out: one copy joins these.
    """
    attn = block.attn
    q, k, v = (_heads(block, part_BNI) for part_BNI in attn.qkv(block.norm1(x_BND)).chunk(3, dim=-1))
    return attn.q_norm(q), attn.k_norm(k), v


def _heads(block: Block, x_BNI: Tensor) -> Tensor:
    return x_BNI.unflatten(-1, (block.attn.num_heads, block.attn.head_dim)).transpose(1, 2)


def _queries(block: Block, x_BND: Tensor) -> Tensor:
    attn = block.attn
    width = attn.num_heads * attn.head_dim
    bias = None if attn.qkv.bias is None else attn.qkv.bias[:width]
    q_BHNd: Tensor = attn.q_norm(_heads(block, linear(block.norm1(x_BND), attn.qkv.weight[:width], bias)))
    return q_BHNd


def _output(block: Block, z_BHNd: Tensor, bias: bool) -> Tensor:
    attn = block.attn
    z_BND = attn.norm(z_BHNd.transpose(1, 2).flatten(2))
    projected: Tensor = block.ls1(linear(z_BND, attn.proj.weight, attn.proj.bias if bias else None))
    return projected


def _is_plain(block: Block) -> bool:
    """Whether its attention is nothing but projections and one softmax."""
    return type(block.attn) is TimmAttention and block.attn.gate is None


def _attention(block: Block) -> Attention | None:
    attn = block.attn
    if not _is_plain(block):
        return None
    return Attention(
        num_heads=attn.num_heads,
        head_dim=attn.head_dim,
        queries=partial(_queries, block),
        project=partial(_project, block),
        placeless=lambda x_BND: _project(block, x_BND)[1:],
        output=partial(_output, block),
    )


def _attend(block: Block, x_BND: Tensor, num_tokens: int) -> Tensor:
    """What attention adds to the first P tokens, which attend to all; where they are pooled, others are not read."""
    q, k, v = _project(block, x_BND)
    z_BHPd = scaled_dot_product_attention(q[:, :, :num_tokens], k, v)
    projected = block.attn.proj(block.attn.norm(z_BHPd.transpose(1, 2).flatten(2)))
    added: Tensor = block.ls1(projected)
    return added


def _merge_pooled(x_BND: Tensor, added_BPD: Tensor) -> Tensor:
    return x_BND[:, : added_BPD.shape[1]] + added_BPD


def _num_pooled(model: VisionTransformer) -> int:
    """How many tokens, the first ones, the model pools; 0 if it reads all."""
    if model.global_pool != "token" or model.attn_pool is not None:
        return 0
    return 2 if isinstance(model, VisionTransformerDistilled) else 1


def _block_site(model: VisionTransformer, depth: int) -> BlockSite:
    block = model.blocks[depth]
    site = partial(
        OpSite,
        depth=depth,
        width=model.embed_dim,
        attention=_attention(block),
        grid=tuple(model.patch_embed.grid_size),
        open_sequence=True,
    )
    attn_layers, mlp_layers = (
        named_layers(model, block.norm1, block.attn, block.ls1),
        named_layers(model, block.norm2, block.mlp, block.ls2),
    )
    attn = partial(site, kind="attn", norm=block.norm1, layers=attn_layers)
    num_pooled = _num_pooled(model) if depth == len(model.blocks) - 1 and _is_plain(block) else 0
    pooled = attn(run=partial(_attend, block, num_tokens=num_pooled), merge=_merge_pooled) if num_pooled else None
    return BlockSite(
        ops=(
            attn(run=partial(_attn, block), pooled=pooled),
            site(kind="mlp", run=partial(_mlp, block), norm=block.norm2, layers=mlp_layers),
        ),
        whole=site(kind="block", run=block, layers={**attn_layers, **mlp_layers}),
    )


def _blocks(model: nn.Module) -> Sequence[BlockSite]:
    assert isinstance(model, VisionTransformer)
    return [_block_site(model, depth) for depth in range(len(model.blocks))]


def _embed(model: VisionTransformer, images_B3HW: Tensor) -> Tensor:
    x_BND: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images_B3HW))))
    return x_BND


def _stem(model: nn.Module) -> OpSite:
    assert isinstance(model, VisionTransformer)
    layers = named_layers(model, model.patch_embed, model.norm_pre)
    return OpSite(kind="stem", depth=0, width=model.embed_dim, run=partial(_embed, model), layers=layers)


VIT = Architecture(name="vit", matches=_matches, stem=_stem, blocks=_blocks, norm=sequence_norm, pool=pool_sequence)
