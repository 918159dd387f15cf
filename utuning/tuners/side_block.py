"""What side networks are built of: a check of the trunk, linear layers, and narrow blocks of the backbone's type."""

from typing import Any, cast

import torch
from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block
from torch import Generator, nn

from utuning.architectures import Trunk
from utuning.architectures.sites import BND
from utuning.errors import ConfigError, PlacementError

WEIGHT_STD = 0.02


def require_one_width(trunk: Trunk, method: str) -> None:
    """Check that all blocks give states of one shape (B, N, D).

    Raises:
        PlacementError: they do not.
    """
    if not trunk.architecture.isotropic or trunk.norm.layout != BND:
        raise PlacementError(
            f"{method} puts the states of all blocks together, and in a backbone of the family "
            f"{trunk.architecture.name} they differ in width or lie on a map; use a backbone that keeps one row of "
            "tokens, such as a ViT, or a tuner that stands at op sites"
        )


def norm_like(norm: Any, width: int) -> nn.Module:
    """A new norm of the same type and eps at another width, with weight 1 and bias 0."""
    return cast(nn.Module, type(norm)(width, eps=norm.eps))


def frozen_block(trunk: Trunk, depth: int) -> Block:
    """The timm block at a depth.

    Raises:
        PlacementError: it is not timm's plain ViT block, of which alone a narrow one can be made.
    """
    block: Any = trunk.blocks[depth].whole.run
    plain = type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp
    if not plain or block.attn.gate is not None:
        raise PlacementError(
            f"ladder makes narrow copies of timm's plain ViT block (Attention and Mlp), and block {depth} of this "
            f"{trunk.architecture.name} is another; choose another backbone, or unipt or bypass"
        )
    return block


def side_width(trunk: Trunk, block: Block, reduction: int) -> int:
    """d = D / r, which the block's heads have to divide.

    Raises:
        ConfigError: they do not.
    """
    num_heads, head_dim = block.attn.num_heads, block.attn.head_dim
    if head_dim % reduction:
        allowed = [r for r in range(1, head_dim + 1) if head_dim % r == 0]
        raise ConfigError(
            f"ladder's reduction {reduction} does not divide this backbone's heads of width {head_dim} ({num_heads} of "
            f"them stay, each narrower); allowed: {', '.join(map(str, allowed))}"
        )
    return trunk.width // reduction


def build_side_block(block: Block, width: int, generator: Generator) -> nn.Module:
    """A block of the same type at another width: same heads, MLP ratio, biases, norms and layer scale; no dropout.

    Its weights are normal with std 0.02 cut at 2, biases 0, norms 1 and 0, layer scales as the backbone's began: what
    timm gives a ViT, but drawn from `generator`.
    """
    attn, mlp = block.attn, block.mlp
    # Without memory, timm's own initial values draw nothing from the global generator.
    with torch.device("meta"):
        side = Block(
            dim=width,
            num_heads=attn.num_heads,
            mlp_ratio=mlp.fc1.out_features / mlp.fc1.in_features,
            qkv_bias=attn.qkv.bias is not None,
            qk_norm=not isinstance(attn.q_norm, nn.Identity),
            scale_attn_norm=not isinstance(attn.norm, nn.Identity),
            scale_mlp_norm=not isinstance(mlp.norm, nn.Identity),
            proj_bias=attn.proj.bias is not None,
            init_values=getattr(block.ls1, "init_values", None),
            act_layer=type(mlp.act),
            norm_layer=lambda size, **where: norm_like(block.norm1, size),
        )
    side.to_empty(device="cpu")
    _draw(side, generator)
    return cast(nn.Module, side)


def _draw(side: nn.Module, generator: Generator) -> None:
    """Give every parameter its first value."""
    for layer in side.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=WEIGHT_STD, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif next(layer.parameters(recurse=False), None) is not None:
            cast(Any, layer).reset_parameters()  # norms and layer scales: constants
