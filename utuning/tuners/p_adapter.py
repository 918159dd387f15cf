"""P-Adapter, the parallel adapter of U-Tuning (arXiv 2303.00690, fig. 4b)."""

from typing import Annotated, Literal

from torch import Generator, Tensor, nn
from torch.nn.functional import gelu

from utuning.architectures import OpSite
from utuning.linear import empty_linear, noisy_xavier_values
from utuning.settings import AtLeast
from utuning.tuners.scale import ScaleName, build_scale

Init = Literal["xavier", "zero_up"]


class PAdapter(nn.Module):
    """U(x) = s * (gelu(x Wdown + bdown) Wup + bup), added to what the frozen op gives for the same x.

    x is the residual stream before the op's own norm (fig. 4a). Parameters for width D and bottleneck r:
    2Dr + r + D, and the scale's.

    Args:
        site: the op site it stands beside.
        bottleneck_dim: r, the width between the two projections; 10 is the authors' release.
        scale: s, see `utuning.tuners.scale`; `channel` was best in the paper's table 7.
        init: `xavier` is the authors' (both weights Xavier-uniform, biases N(0, 1e-6)): not the identity at init.
            `zero_up` leaves the up-projection at zero: the identity at init.
        generator: source of the initial values.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 10,
        scale: ScaleName = "channel",
        init: Init = "zero_up",
        generator: Generator,
    ) -> None:
        super().__init__()
        self.down = empty_linear(site.width, bottleneck_dim)
        self.up = empty_linear(bottleneck_dim, site.width)
        self.scale = build_scale(scale, site.width, generator)
        for linear in (self.down, self.up):
            noisy_xavier_values(linear, generator)
        if init == "zero_up":
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Map the stream to what is added beside the op, both (B, N, D)."""
        added: Tensor = self.scale(self.up(gelu(self.down(x_BND))))
        return added
