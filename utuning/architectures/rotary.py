"""The attention of timm's `Eva` blocks, seen as projections: rotary position, joint or separate, with shared key heads.

Shape legend: B images, N tokens, D width, I = H * d inner width, H heads, d width of a head.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor
from torch.nn.functional import linear

from utuning.architectures.sites import Attention

Rope = Callable[[], Tensor | None]
AnyAttention: TypeAlias = EvaAttention | AttentionRope


def rotary_attention(block: EvaBlock, rope: Rope) -> Attention | None:
    """What tuners may know of a block's attention; None where a gate makes its output more than a projection."""
    if block.attn.gate is not None:
        return None
    return Attention(
        num_heads=block.attn.num_heads,
        head_dim=block.attn.head_dim,
        queries=partial(_queries, block, rope),
        project=partial(_project, block, rope),
        placeless=partial(_placeless, block),
        output=partial(_output, block),
    )


def scaled(gamma_D: Tensor | None, x_BND: Tensor) -> Tensor:
    """Apply a layer scale, where there is one."""
    return x_BND if gamma_D is None else gamma_D * x_BND


def has_outer_bias(attn: AnyAttention) -> bool:
    """Whether the joint projection's bias lies outside its layer, as `EvaAttention` has it."""
    return getattr(attn, "q_bias", None) is not None


def _joint_bias(attn: AnyAttention) -> Tensor | None:
    if has_outer_bias(attn):
        return torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    bias: Tensor | None = attn.qkv.bias
    return bias


def _queries(block: EvaBlock, rope: Rope, x_BND: Tensor) -> Tensor:
    attn, z_BND = block.attn, block.norm1(x_BND)
    if attn.qkv is None:
        q_BNI = attn.q_proj(z_BND)
    else:
        width, bias = attn.num_heads * attn.head_dim, _joint_bias(attn)
        q_BNI = linear(z_BND, attn.qkv.weight[:width], None if bias is None else bias[:width])
    return _rotate(attn, attn.q_norm(_heads(attn, q_BNI)), rope())


def _project(block: EvaBlock, rope: Rope, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attn, place = block.attn, rope()
    q, k, v = (_heads(attn, each) for each in _qkv(attn, block.norm1(x_BND)))
    return _rotate(attn, attn.q_norm(q), place), _shared(attn, _rotate(attn, attn.k_norm(k), place)), _shared(attn, v)


def _placeless(block: EvaBlock, x_BND: Tensor) -> tuple[Tensor, Tensor]:
    attn = block.attn
    _, k, v = (_heads(attn, each) for each in _qkv(attn, block.norm1(x_BND)))
    return _shared(attn, attn.k_norm(k)), _shared(attn, v)


def _output(block: EvaBlock, z_BHNd: Tensor, bias: bool) -> Tensor:
    attn = block.attn
    z_BNI = attn.norm(z_BHNd.transpose(1, 2).flatten(2))
    return scaled(block.gamma_1, linear(z_BNI, attn.proj.weight, attn.proj.bias if bias else None))


def _qkv(attn: AnyAttention, z_BND: Tensor) -> Sequence[Tensor]:
    if attn.qkv is None:
        return attn.q_proj(z_BND), attn.k_proj(z_BND), attn.v_proj(z_BND)
    return linear(z_BND, attn.qkv.weight, _joint_bias(attn)).chunk(3, dim=-1)


def _heads(attn: AnyAttention, x_BNI: Tensor) -> Tensor:
    return x_BNI.reshape(*x_BNI.shape[:2], -1, attn.head_dim).transpose(1, 2)


def _shared(attn: AnyAttention, x_BGNd: Tensor) -> Tensor:
    """Give each query head its key or value head; G of them serve all."""
    return x_BGNd.repeat_interleave(attn.num_heads // x_BGNd.shape[1], dim=1)


def _rotate(attn: AnyAttention, x_BHNd: Tensor, rope: Tensor | None) -> Tensor:
    """Turn the image tokens; those before them have no position."""
    if rope is None:
        return x_BHNd
    first, image = x_BHNd[:, :, : attn.num_prefix_tokens], x_BHNd[:, :, attn.num_prefix_tokens :]
    return torch.cat([first, apply_rot_embed_cat(image, rope, half=attn.rotate_half)], dim=2).type_as(x_BHNd)
