"""UniPT (arXiv 2308.14316): a network that reads every block's state, guided by the last one."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import Trunk
from utuning.errors import ConfigError, PlacementError
from utuning.linear import default_linear
from utuning.settings import AtLeast
from utuning.tuners.side_block import require_one_width

Readout = Literal["out", "skip"]
EPS = 1e-6


class UniPT(nn.Module):
    """The authors' form for a text encoder, ported to image classification: a port, not a reproduction.

    H_0 is the embedded image, H_1..H_L are the states after the tapped blocks, each (B, N, D); d = D // k.

        F_i = LN(H_i W_i + b_i)                                 (B, N, d), W_i of shape (D, d)
        M_i = rownorm(relu(F_L F_i^T)) + I                      (B, N, N), no 1/sqrt(d) and no softmax; i < L
        c_i = w . (mean_N(F_L) * mean_N(F_i))                   (B, 1), one w for all i
        G   = sum_i softmax_i(c)_i M_i F_i                      (B, N, d)
        out = relu(F_L + LN(G W_p + b_p)) W_o + b_o             (B, N, D)

    rownorm divides each row by its sum plus 1e-6. All tokens count, the class token and registers too.
    Init: PyTorch's defaults. No dropout. Not the identity at init.
    Parameters for L tapped blocks: (L + 1)(Dd + 3d) + d + (d^2 + 3d) + (dD + D).

    Decided here, since the sources leave it open or it cannot be as they say:
    - The gate w has no bias: one bias for all i cancels in the softmax, so it would never learn.
    - Fewer depths tap fewer states. The guide F_L is the last tapped one.

    Args:
        trunk: the frozen backbone.
        depths: the blocks after which it reads; two or more. The embedded image is always read.
        downsample: k; 2 is the authors' in the form that is ported here.
        readout: what becomes the features. `out` pools `out` as the backbone pools its tokens (for most ViTs: takes the
            class token), as in the text encoder. `skip` adds that to the backbone's own features, as the authors' video
            model adds it to the class token.
        generator: source of the initial values.

    Raises:
        PlacementError: a backbone whose states differ in shape, or fewer than two depths.
        ConfigError: a `downsample` larger than the backbone's width.
    """

    first_depth: int | None = None

    def __init__(
        self,
        trunk: Trunk,
        depths: Sequence[int],
        *,
        downsample: Annotated[int, AtLeast(1)] = 2,
        readout: Readout = "out",
        generator: Generator,
    ) -> None:
        super().__init__()
        require_one_width(trunk, "unipt")
        _check(trunk.width, depths, downsample)
        self._trunk, self._skip = trunk, readout == "skip"
        width = trunk.width // downsample
        self.down = nn.ModuleDict(
            {name: _into(trunk.width, width, generator) for name in ("stem", *(str(depth) for depth in depths))}
        )
        self.gate = default_linear(width, 1, generator, bias=False)
        self.mix = _into(width, width, generator)
        self.up = default_linear(width, trunk.width, generator)

    def start(self, x_BND: Tensor) -> list[Tensor]:
        """F_0. The narrow states are carried, not the wide ones."""
        return [self.down["stem"](x_BND)]

    def step(
        self, depth: int, before_BND: Tensor, after_BND: Tensor, carried: list[Tensor]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Append F_i for a tapped block."""
        if str(depth) in self.down:
            carried = [*carried, self.down[str(depth)](after_BND)]
        return carried, None

    def features(self, x_BND: Tensor, carried: list[Tensor]) -> Tensor:
        """Let the states interact with the guide, weigh them, and pool: (B, D)."""
        *states, guide_BNd = carried
        anchor_Bd = guide_BNd.mean(dim=1)
        confidence = torch.stack([self.gate(anchor_Bd * f_BNd.mean(dim=1)) for f_BNd in states]).softmax(dim=0)
        mixed_BNd = torch.zeros_like(guide_BNd)
        for c_B1, f_BNd in zip(confidence, states, strict=True):
            mixed_BNd = mixed_BNd + c_B1[:, None] * _interact(guide_BNd, f_BNd)
        out_BND = self.up(torch.relu(guide_BNd + self.mix(mixed_BNd)))
        pooled_BD = self._trunk.pool(out_BND)
        return self._trunk.norm.run(x_BND) + pooled_BD if self._skip else pooled_BD


def _interact(guide_BNd: Tensor, f_BNd: Tensor) -> Tensor:
    """M F = rownorm(S) F + F; dividing S F instead of S keeps one (B, N, N) tensor less."""
    similar_BNN = torch.relu(guide_BNd @ f_BNd.mT)
    return similar_BNN @ f_BNd / (similar_BNN.sum(dim=-1, keepdim=True) + EPS) + f_BNd


def _into(in_features: int, out_features: int, generator: Generator) -> nn.Module:
    return nn.Sequential(default_linear(in_features, out_features, generator), nn.LayerNorm(out_features))


def _check(width: int, depths: Sequence[int], downsample: int) -> None:
    if len(depths) < 2:
        raise PlacementError(
            f"unipt weighs the states before the last one that it reads, and with depths {list(depths)} there is only "
            "the embedded image to weigh; give two depths or more"
        )
    if downsample > width:
        raise ConfigError(f"unipt's downsample {downsample} leaves nothing of the backbone's width {width}")
