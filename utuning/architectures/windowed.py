"""The attention of timm's Swin blocks, seen as projections of all tokens: rows do not mix in them, so no window is cut.

Shape legend: B images, N tokens, D width, I = H * d inner width, H heads, d width of a head.
"""

from functools import partial

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch.nn.functional import linear

from utuning.architectures.sites import Attention


def windowed_attention(block: SwinTransformerBlock) -> Attention:
    """What tuners may know of a block's attention. A token attends to its window only."""
    return Attention(
        num_heads=block.attn.num_heads,
        head_dim=block.attn.proj.in_features // block.attn.num_heads,
        queries=partial(_queries, block),
        project=partial(_project, block),
        placeless=partial(_placeless, block),
        output=partial(_output, block),
        whole=False,
    )


def _queries(block: SwinTransformerBlock, x_BND: Tensor) -> Tensor:
    return _heads(block, x_BND, 0, 1)[0]


def _project(block: SwinTransformerBlock, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_BHNd, k_BHNd, v_BHNd = _heads(block, x_BND, 0, 3)
    return q_BHNd, k_BHNd, v_BHNd


def _placeless(block: SwinTransformerBlock, x_BND: Tensor) -> tuple[Tensor, Tensor]:
    k_BHNd, v_BHNd = _heads(block, x_BND, 1, 3)
    return k_BHNd, v_BHNd


def _output(block: SwinTransformerBlock, z_BHNd: Tensor, bias: bool) -> Tensor:
    proj = block.attn.proj
    return linear(z_BHNd.transpose(1, 2).flatten(2), proj.weight, proj.bias if bias else None)


def _heads(block: SwinTransformerBlock, x_BND: Tensor, first: int, end: int) -> list[Tensor]:
    """Of queries, keys and values, in this order, those from `first` to before `end`, each (B, H, N, d)."""
    attn, width = block.attn, block.attn.proj.in_features
    rows = slice(first * width, end * width)
    bias = None if attn.qkv.bias is None else attn.qkv.bias[rows]
    wanted_BNI = linear(block.norm1(x_BND), attn.qkv.weight[rows], bias).chunk(end - first, dim=-1)
    return [each.reshape(*each.shape[:2], attn.num_heads, -1).transpose(1, 2) for each in wanted_BNI]
