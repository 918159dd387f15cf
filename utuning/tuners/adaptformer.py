"""AdaptFormer (arXiv 2205.13535), and with other settings the scaled parallel adapter (arXiv 2110.04366)."""

import math
from typing import Annotated

from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from utuning.architectures import OpSite
from utuning.linear import empty_linear
from utuning.settings import AtLeast
from utuning.tuners.scale import constant_scale


class AdaptFormer(nn.Module):
    """U(x) = s * (relu(x Wdown + bdown) Wup + bup), beside the MLP, with a constant s.

    x is the stream before the op's norm, as at U-Tuning's MLP site. It differs from P-Adapter in the activation, the
    constant scale and the init: Wdown Kaiming-uniform with a = sqrt(5), everything else 0; the identity at init.
    Parameters for width D and bottleneck r: 2Dr + r + D. Left out: the branch's dropout of 0.1, since nothing that a
    member draws while it trains may depend on how its batch is split over workers. The engine's drop-path drops op and
    adapter together, where AdaptFormer's leaves the adapter.

    Args:
        site: the op site it stands beside.
        bottleneck_dim: r; 64, and 512 for the scaled parallel adapter.
        scale: s; 0.1, and 4 for the scaled parallel adapter.
        generator: source of the initial values.

    Raises:
        ConfigError: scale 0.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 64,
        scale: float = 0.1,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.down = empty_linear(site.width, bottleneck_dim)
        self.up = empty_linear(bottleneck_dim, site.width)
        self.scale = constant_scale(scale)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Map the stream to what is added beside the op, both (B, N, D)."""
        added: Tensor = self.scale * self.up(relu(self.down(x_BND)))
        return added
