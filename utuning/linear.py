"""Linear layers whose initial values come from a given generator, so that no global random state decides them."""

from typing import cast

import torch
from torch import Generator, nn
from torch.nn.utils import skip_init

NOISY_BIAS_STD = 1e-6


def empty_linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer without initial values; the caller sets all of them."""
    device = torch.get_default_device()  # skip_init would take memory even where shapes alone are wanted
    layer = skip_init(nn.Linear, in_features, out_features, bias=bias, device=device)  # type: ignore[no-untyped-call]
    return cast(nn.Linear, layer)


def default_linear(in_features: int, out_features: int, generator: Generator, *, bias: bool = True) -> nn.Linear:
    """A linear layer by PyTorch's default rule."""
    layer = empty_linear(in_features, out_features, bias=bias)
    default_values(layer, generator)
    return layer


def default_values(layer: nn.Linear, generator: Generator) -> None:
    """PyTorch's default rule, Kaiming-uniform with a = sqrt(5): weight and bias uniform within 1/sqrt(fan in)."""
    bound = layer.in_features**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


def xavier_linear(in_features: int, out_features: int, generator: Generator) -> nn.Linear:
    """A linear layer with a Xavier-uniform weight and a bias of zeros."""
    layer = empty_linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def noisy_xavier_values(layer: nn.Linear, generator: Generator) -> None:
    """The rule of U-Tuning's authors: a Xavier-uniform weight and a bias that is nearly zero, N(0, 1e-6)."""
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.normal_(layer.bias, std=NOISY_BIAS_STD, generator=generator)
