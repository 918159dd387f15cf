"""Folds affine maps into the layers of a copied model.

Shape legend: C channels that a layer gives.
"""

import torch
from timm.layers import LayerNorm2d, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import Tensor, nn

from utuning.errors import ConfigError

FIRST = (nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, LayerNorm2d, RmsNorm2d, SimpleNorm2d)
LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, RmsNorm, SimpleNorm)


def channel_dim(layer: nn.Module) -> int | None:
    """The dimension of a layer's output that its weight counts: 1 as in (B, C, …), or -1 as in (B, N, C); else None.

    A norm that holds its activation has none: what it gives is not its weight's doing alone.
    """
    if not isinstance(getattr(layer, "act", None), nn.Identity | None):
        return None
    if isinstance(layer, FIRST):  # asked first: a LayerNorm2d is a LayerNorm
        return 1
    return -1 if isinstance(layer, LAST) else None


def weight_of(name: str, layer: nn.Module) -> Tensor:
    """The weight to change in place.

    Raises:
        ConfigError: the layer's output is not linear in its weight, so nothing can be folded into it.
    """
    if channel_dim(layer) is None or "Std" in type(layer).__name__:  # timm's convolutions that standardise their weight
        raise ConfigError(f"layer {name} is a {type(layer).__name__}: nothing can be folded into it; keep it unmerged")
    return layer.get_parameter("weight")


def bias_of(name: str, layer: nn.Module) -> Tensor:
    """The bias to change in place; a layer that may have one and has none gets zeros.

    Raises:
        ConfigError: a layer of this kind has no bias.
    """
    if not hasattr(layer, "bias"):
        raise ConfigError(
            f"layer {name} is a {type(layer).__name__}, which has no bias to fold a shift into; keep it unmerged"
        )
    if layer.bias is None:
        weight = weight_of(name, layer)
        layer.bias = nn.Parameter(torch.zeros_like(weight.flatten(1)[:, 0] if weight.ndim > 1 else weight))
    return layer.get_parameter("bias")


@torch.no_grad()
def fold_after(name: str, layer: nn.Module, gamma_C: Tensor, beta_C: Tensor) -> None:
    """Make the layer give gamma * y + beta where it gave y: W' = diag(gamma) W, b' = gamma b + beta."""
    weight, bias = weight_of(name, layer), bias_of(name, layer)
    weight.mul_(gamma_C.view(-1, *[1] * (weight.ndim - 1)))
    bias.mul_(gamma_C).add_(beta_C)
