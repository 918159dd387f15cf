"""What prefix and prompt tuners share: a block's frozen queries attending to M tokens of the tuner's own.

Shape legend: B images, N tokens, M tokens of a prefix or prompt, I = H * d inner width, H heads, d width of a head.
"""

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from utuning.architectures import OpSite
from utuning.architectures.sites import Attention
from utuning.errors import PlacementError
from utuning.tuners.scale import ScaleName, build_scale, build_zero_scale

Init = Literal["xavier", "zero_scale"]


def attention_of(site: OpSite, method: str) -> Attention:
    """The attention of the block that the site belongs to.

    Raises:
        PlacementError: that block has none, or one that is more than projections and a softmax.
    """
    if site.attention is None:
        raise PlacementError(
            f"{method} needs a block with attention made of plain projections and one softmax, and {site.kind} at "
            f"depth {site.depth} belongs to none such; choose other depths, or a method such as p_adapter"
        )
    return site.attention


def xavier_tokens(num_tokens: int, width: int, generator: Generator) -> nn.Parameter:
    """Trainable tokens (1, M, width), Xavier-uniform as the authors of U-Tuning draw them.

    They pass the tensor with its three dimensions, whose fans are M * width and width: the bound is
    sqrt(6 / (M * width + width)), less than that of a matrix (M, width).
    """
    tokens = nn.Parameter(torch.empty(1, num_tokens, width))
    nn.init.xavier_uniform_(tokens, generator=generator)
    return tokens


def scale_for(init: Init, scale: ScaleName, width: int, generator: Generator) -> nn.Module:
    """The scale of a prefix or prompt tuner: from 0 under `zero_scale`, else as always.

    Raises:
        ConfigError: `zero_scale` with a scale that cannot start at 0.
    """
    return build_zero_scale(scale, width) if init == "zero_scale" else build_scale(scale, width, generator)


def split_heads(x_1MI: Tensor, num_heads: int) -> Tensor:
    """(1, M, H * d) -> (1, H, M, d): the order in which heads lie in a projection."""
    return x_1MI.view(1, x_1MI.shape[1], num_heads, -1).transpose(1, 2)


def attend(q_BHNd: Tensor, k_1HMd: Tensor, v_1HMd: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V over M keys that are the same for every image; (B, H, N, d)."""
    k, v = (t.to(q_BHNd.dtype).expand(q_BHNd.shape[0], -1, -1, -1) for t in (k_1HMd, v_1HMd))
    return scaled_dot_product_attention(q_BHNd, k, v)
