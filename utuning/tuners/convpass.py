"""Convpass (arXiv 2207.07039): a bottleneck with a convolution over the image's grid, beside attention and MLP."""

from functools import partial
from math import prod
from typing import Annotated

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear

from utuning.architectures import OpSite
from utuning.errors import PlacementError
from utuning.linear import empty_linear, xavier_linear
from utuning.settings import AtLeast
from utuning.tuners.convolution import CENTRE, identity_conv
from utuning.tuners.scale import constant_scale


class Convpass(nn.Module):
    """U(x) = s * (q(C(q(LN(x) Wdown + bdown))) Wup + bup), q(z) = z * sigmoid(1.702 z), C a 3x3 convolution r -> r.

    LN is the op's own frozen norm: the input is what the op itself reads. C runs over the image tokens, the last H * W
    of the stream, laid out on their grid with a border of zeros. A token before them (class token, register, prompt) is
    a map of one pixel, of which the kernel sees only its centre. Parameters for width D and bottleneck r:
    2Dr + r + D + 9r^2 + r. Init: Wdown Xavier-uniform, C the identity, Wup and all biases 0; the identity at init.
    Left out: the branch's dropout of 0.1, since nothing that a member draws while it trains may depend on how its batch
    is split over workers.

    Args:
        site: an op that starts with a norm, of a block whose image tokens lie on a grid.
        bottleneck_dim: r.
        scale: s, a constant that its authors choose per task; 0.1 was theirs for CIFAR-100.
        generator: source of the initial values.

    Raises:
        PlacementError: an op without a norm, or tokens without a grid.
        ConfigError: scale 0.
    """

    mixes_tokens = True

    def __init__(
        self,
        site: OpSite,
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 8,
        scale: float = 0.1,
        generator: Generator,
    ) -> None:
        super().__init__()
        if site.norm is None or site.grid is None:
            missing = "its op starts with no norm" if site.norm is None else "its tokens lie on no grid"
            raise PlacementError(
                f"convpass cannot stand at {site.kind} at depth {site.depth}: {missing}; choose another op or method"
            )
        # Wrapped, the norm is no part of this module: its parameters are the backbone's.
        self._norm = partial(site.norm)
        self._grid = site.grid
        self._scale = constant_scale(scale)
        self.down = xavier_linear(site.width, bottleneck_dim, generator)
        self.conv = identity_conv(bottleneck_dim)
        self.up = empty_linear(bottleneck_dim, site.width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Map the stream to what is added beside the op, both (B, N, D)."""
        z_BNr = _quick_gelu(self.down(self._norm(x_BND)))
        added: Tensor = self._scale * self.up(_quick_gelu(self._convolve(z_BNr)))
        return added

    def _convolve(self, z_BNr: Tensor) -> Tensor:
        num_before = z_BNr.shape[1] - prod(self._grid)
        map_BrHW = self.conv(z_BNr[:, num_before:].mT.reshape(z_BNr.shape[0], -1, *self._grid))
        before_BPr = linear(z_BNr[:, :num_before], self.conv.weight[:, :, CENTRE, CENTRE], self.conv.bias)
        return torch.cat([before_BPr, map_BrHW.flatten(2).mT], dim=1)


def _quick_gelu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)
