"""The scales that end a tuner (U-Tuning, arXiv 2303.00690, table 7), and the rule for constant ones."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from utuning.errors import ConfigError
from utuning.linear import xavier_linear

ScaleName = Literal["none", "scalar", "channel", "gate"]


class LearnedScale(nn.Module):
    """z -> s * z with s learned: one number (`scalar`), or one a channel (`channel`, shape (D,)). It starts at 1."""

    def __init__(self, size: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), start))

    def forward(self, z_BND: Tensor) -> Tensor:
        """Scale the tuner's output, (B, N, D)."""
        return self.weight * z_BND


class GateScale(nn.Module):
    """Input-dependent: one number an image, the mean over tokens of sigmoid(z w + b) with w (D, 1)."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.gate = xavier_linear(width, 1, generator)

    def forward(self, z_BND: Tensor) -> Tensor:
        """Scale the tuner's output, (B, N, D)."""
        scale_B11 = torch.sigmoid(self.gate(z_BND)).mean(dim=1, keepdim=True)
        return scale_B11 * z_BND


def build_scale(name: ScaleName, width: int, generator: Generator) -> nn.Module:
    """Build one of the four scales for a stream of the given width."""
    if name == "none":
        return nn.Identity()
    if name == "gate":
        return GateScale(width, generator)
    return LearnedScale(_learned_sizes(width)[name])


def build_zero_scale(name: ScaleName, width: int) -> LearnedScale:
    """Build a learned scale that starts at 0: the identity at init for a tuner whose other parts start away from 0.

    Raises:
        ConfigError: a scale that is no learned factor, so that it cannot start at 0.
    """
    sizes = _learned_sizes(width)
    if name not in sizes:
        raise ConfigError(
            f"init 'zero_scale' starts the scale at 0, which scale {name!r} cannot; "
            "use scale 'scalar' or 'channel', or another init"
        )
    return LearnedScale(sizes[name], start=0.0)


def constant_scale(value: float) -> float:
    """Check a scale that is a constant of the method.

    Raises:
        ConfigError: 0, with which no part of the tuner would get a gradient.
    """
    if value == 0.0:
        raise ConfigError("scale 0 leaves the tuner without effect and without gradients; give another number")
    return value


def _learned_sizes(width: int) -> dict[str, int]:
    return {"scalar": 1, "channel": width}
