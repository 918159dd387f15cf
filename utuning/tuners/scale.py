"""The scales that end every U-Tuner (U-Tuning, arXiv 2303.00690, table 7)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from utuning.linear import empty_linear

ScaleName = Literal["none", "scalar", "channel", "gate"]
SCALE_NAMES: tuple[str, ...] = get_args(ScaleName)


class LearnedScale(nn.Module):
    """z -> s * z with s learned from 1: one number (`scalar`), or one a channel (`channel`, shape (D,))."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, z_BND: Tensor) -> Tensor:
        """Scale the tuner's output, (B, N, D)."""
        return self.weight * z_BND


class GateScale(nn.Module):
    """Input-dependent: one number an image, the mean over tokens of sigmoid(z w + b) with w (D, 1)."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.gate = empty_linear(width, 1)
        nn.init.xavier_uniform_(self.gate.weight, generator=generator)
        nn.init.zeros_(self.gate.bias)

    def forward(self, z_BND: Tensor) -> Tensor:
        """Scale the tuner's output, (B, N, D)."""
        scale_B11 = torch.sigmoid(self.gate(z_BND)).mean(dim=1, keepdim=True)
        return scale_B11 * z_BND


_BUILD: dict[str, Callable[[int, Generator], nn.Module]] = {
    "none": lambda width, generator: nn.Identity(),
    "scalar": lambda width, generator: LearnedScale(1),
    "channel": lambda width, generator: LearnedScale(width),
    "gate": GateScale,
}


def build_scale(name: ScaleName, width: int, generator: Generator) -> nn.Module:
    """Build one of the four scales for a stream of the given width."""
    return _BUILD[name](width, generator)
