"""Res-Tuning-Bypass (arXiv 2310.19859): adapters on a second stream that runs beside the frozen one."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import Trunk
from utuning.settings import AtLeast
from utuning.tuners.p_adapter import PAdapter
from utuning.tuners.scale import ScaleName
from utuning.tuners.side_block import require_one_width

Form = Literal["released", "paper"]
Init = Literal["xavier", "zero_last"]


class Bypass(nn.Module):
    """The stream b beside the blocks' outputs x_l, all (B, N, D); b_0 is the embedded image.

        released:  b_l = V_l(x_l) + W_l(b_(l-1))                             lateral V, vertical W
        paper:     b_l = lam_l V_l(x_l) + (1 - lam_l) W_l(b_(l-1))
        V(z), W(z) = z + s * (gelu(z Wdown + bdown) Wup + bup)

    Then the frozen final norm and pooling. A tuner that is switched off is the identity. In `released`, what the
    authors' code does, the sum grows with depth; the final norm takes that back. Not the identity at init.
    Parameters for L blocks, width D, bottleneck r: 2Dr + r + D for each of L lateral and L vertical tuners, the
    scales', and one for each block in `paper`.

    Unknown of `paper`, whose code is not public, and decided here: its tuners have the skip that the released ones
    have; lam is learned, one number a block, as a sigmoid that starts at 1/2.
    The released code detaches the states that it reads. Here they have no gradient to begin with, unless the trial has
    tuners in the stream too; those then learn through the bypass as well.

    Args:
        trunk: the frozen backbone.
        depths: the blocks whose outputs it reads; the stream passes the others by.
        bottleneck_dim: r; 32 is the default of the authors' code, 10 gives the counts that the paper prints.
        form: see above.
        lateral: whether there are tuners on the blocks' outputs.
        vertical: whether there are tuners on the stream itself. Without any tuner, only the sum is left: a row of the
            paper's table, which trains the head alone.
        scale: s, see `utuning.tuners.scale`; the paper's counts are those of `none`.
        init: `xavier` is the authors': both weights Xavier-uniform, biases N(0, 1e-6). `zero_last` is their option: the
            up-projections of the last block's tuners start at zero.
        generator: source of the initial values.

    Raises:
        PlacementError: a backbone whose states differ in shape.
    """

    first_depth: int | None = None

    def __init__(
        self,
        trunk: Trunk,
        depths: Sequence[int],
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 32,
        form: Form = "released",
        lateral: bool = True,
        vertical: bool = True,
        scale: ScaleName = "none",
        init: Init = "xavier",
        generator: Generator,
    ) -> None:
        super().__init__()
        require_one_width(trunk, "bypass")
        self._trunk, self._depths = trunk, frozenset(depths)
        last = max(depths) if init == "zero_last" else None
        self.lateral, self.vertical, self.mix = nn.ModuleDict(), nn.ModuleDict(), nn.ParameterDict()
        for depth in depths:
            for tuners in [self.lateral] * lateral + [self.vertical] * vertical:
                tuners[str(depth)] = PAdapter(
                    trunk.blocks[depth].whole,
                    bottleneck_dim=bottleneck_dim,
                    scale=scale,
                    init="zero_up" if depth == last else "xavier",
                    generator=generator,
                )
            if form == "paper":
                self.mix[str(depth)] = nn.Parameter(torch.zeros(1))

    def start(self, x_BND: Tensor) -> Tensor:
        """b_0."""
        return x_BND

    def step(self, depth: int, before_BND: Tensor, after_BND: Tensor, carried: Tensor) -> tuple[Tensor, Tensor | None]:
        """b_l from what left the block and b_(l-1)."""
        if depth not in self._depths:
            return carried, None
        name = str(depth)
        lateral_BND, vertical_BND = _tuned(self.lateral, name, after_BND), _tuned(self.vertical, name, carried)
        if name in self.mix:
            lam = torch.sigmoid(self.mix[name])
            return lam * lateral_BND + (1 - lam) * vertical_BND, None
        return lateral_BND + vertical_BND, None

    def features(self, x_BND: Tensor, carried: Tensor) -> Tensor:
        """Norm and pool the bypass instead of the backbone's stream."""
        return self._trunk.norm.run(carried)


def _tuned(tuners: nn.ModuleDict, name: str, z_BND: Tensor) -> Tensor:
    """z + U(z), or z where there is no tuner."""
    return z_BND + tuners[name](z_BND, z_BND) if name in tuners else z_BND
