"""DTL (arXiv 2312.07856): a low-rank sum over the blocks' inputs that comes back into the stream of the late blocks."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import Trunk
from utuning.errors import PlacementError
from utuning.linear import default_linear
from utuning.settings import AtLeast
from utuning.tuners.convolution import identity_conv
from utuning.tuners.side_block import require_one_width

Conv = Literal["shared", "each", "none"]


class DTL(nn.Module):
    """h gathers what enters the blocks; the late blocks get it back. h and x are (B, N, D), h = 0 at first.

        before a tapped block:  h <- h + x A^T B^T                     A (r, D), B (D, r)
        after a late block:     x <- x + C(swish(h))                   swish(h) = h * sigmoid(beta h)

    C is a depthwise 3x3 convolution over the image tokens, which are the last H * W of the stream, on their grid with a
    border of zeros; the tokens before them (class token, registers) get swish(h) itself. What lies below the first late
    block, and that block, runs without gradients. The features are the backbone's own of the changed stream.
    Init: A Kaiming-uniform with a = sqrt(5), B zero, so that h is 0: the identity at init. Parameters for T tapped
    blocks: 2TDr, and 9D for each convolution.

    Decided here, since the sources at hand leave it open:
    - Late are the last `num_late` blocks of the backbone, by default half of them.
    - One convolution for all late blocks: with r = 2 that makes 43,776 parameters on ViT-B/16, and 0.04M are printed
      for the method; one for each of half the blocks is more than that at any r.
    - The convolution has no bias, which would break the identity at init, and starts as the identity.
    - beta is a constant, 1 by default: its published value was not found.
    - Pooling is the backbone's own, where the authors take the mean over tokens.

    Args:
        trunk: the frozen backbone.
        depths: the tapped blocks.
        bottleneck_dim: r; 16 is the default of the authors' code.
        num_late: how many of the last blocks get h back.
        conv: `shared`, `each` late block its own, or `none`: then C is the identity.
        beta: see above.
        generator: source of the initial values.

    Raises:
        PlacementError: a backbone whose states differ in shape or whose image tokens lie on no grid, or more late
            blocks than it has blocks.
    """

    def __init__(
        self,
        trunk: Trunk,
        depths: Sequence[int],
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 16,
        num_late: Annotated[int | None, AtLeast(1)] = None,
        conv: Conv = "shared",
        beta: float = 1.0,
        generator: Generator,
    ) -> None:
        super().__init__()
        require_one_width(trunk, "dtl")
        self._trunk, self._beta = trunk, beta
        self._grid = _grid(trunk)
        # Before the first tapped block h is nothing that could be given back.
        self.first_depth: int = max(_first_late(len(trunk.blocks), num_late), min(depths))
        self.down, self.up, self.conv = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for depth in depths:
            self.down[str(depth)] = default_linear(trunk.width, bottleneck_dim, generator, bias=False)
            self.up[str(depth)] = default_linear(bottleneck_dim, trunk.width, generator, bias=False)
            nn.init.zeros_(self.up[str(depth)].weight)  # type: ignore[arg-type]
        late = [str(depth) for depth in range(self.first_depth, len(trunk.blocks))]
        for name in {"shared": ["shared"], "each": late, "none": []}[conv]:
            self.conv[name] = identity_conv(trunk.width, groups=trunk.width, bias=False)

    def start(self, x_BND: Tensor) -> Tensor | None:
        """No h yet."""
        return None

    def step(
        self, depth: int, before_BND: Tensor, after_BND: Tensor, carried: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gather from what entered the block; after a late one, give back."""
        name = str(depth)
        if name in self.down:
            gained_BND = self.up[name](self.down[name](before_BND))
            carried = gained_BND if carried is None else carried + gained_BND
        if carried is None or depth < self.first_depth:
            return carried, None
        return carried, self._spread(carried * torch.sigmoid(self._beta * carried), name)

    def features(self, x_BND: Tensor, carried: Tensor | None) -> Tensor:
        """Norm and pool the changed stream as the backbone does."""
        return self._trunk.norm.run(x_BND)

    def _spread(self, h_BND: Tensor, name: str) -> Tensor:
        """C: convolve the image tokens, leave the tokens before them."""
        if not self.conv:
            return h_BND
        num_before = h_BND.shape[1] - prod(self._grid)
        conv = self.conv["shared" if "shared" in self.conv else name]
        map_BDHW = conv(h_BND[:, num_before:].mT.reshape(h_BND.shape[0], -1, *self._grid))
        return torch.cat([h_BND[:, :num_before], map_BDHW.flatten(2).mT], dim=1)


def _grid(trunk: Trunk) -> tuple[int, int]:
    if trunk.norm.grid is None:
        raise PlacementError("dtl convolves image tokens on their grid, and this backbone's have none; use a ViT")
    return trunk.norm.grid


def _first_late(num_blocks: int, num_late: int | None) -> int:
    late = max(1, num_blocks // 2) if num_late is None else num_late
    if late > num_blocks:
        raise PlacementError(f"dtl's num_late is {late}, and this backbone has {num_blocks} blocks; give at most that")
    return num_blocks - late
