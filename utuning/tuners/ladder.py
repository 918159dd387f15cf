"""Ladder side-tuning, LST (arXiv 2206.06522): a narrow copy of the backbone, fed by rungs from its blocks."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import Trunk
from utuning.linear import default_linear
from utuning.settings import AtLeast
from utuning.tuners.pruning import prune_into, weight_importance
from utuning.tuners.side_block import (
    build_side_block,
    frozen_block,
    norm_like,
    require_one_width,
    side_width,
)

Gate = Literal["learnable", "none"]
Init = Literal["random", "pruned"]
TEMPERATURE = 0.1


class Ladder(nn.Module):
    """d = D / r; x_0 is the embedded image, x_i what leaves frozen block i, both (B, N, D); h is (B, N, d).

        h <- Linear(x_0)
        for each kept block i:
            mu = sigmoid(alpha_i / 0.1)                     alpha_i starts at 0: mu = 1/2
            h <- SideBlock_i(mu h + (1 - mu) Linear_i(x_i))
        y = Linear(LN(h)), (B, N, D), pooled as the backbone pools its tokens, into the head

    A side block is the backbone's own type at width d, with as many heads, each D / (heads r) wide. Every part has
    biases, as both published counts on ViT-B/16 say: 856,860 for r = 16 and 2,376,492 for r = 8. No dropout. Not the
    identity at init. Layer dropping is a placement: `depths` are the blocks that are kept.

    Random init: side blocks as timm begins a ViT (see `build_side_block`); the linear layers into and out of the ladder
    by PyTorch's default rule, which is decided here. All of it is drawn from `generator`, none by timm.
    Pruned init: side blocks and norm are then cut out of the frozen weights, see `utuning.tuners.pruning`; `pruned`
    ranks rows by the size of the weights. The authors' default ranks them by Fisher information, which needs images.
    From Python, before the first step:

        ladder = member.side
        ladder.copy_from(backbone.trunk, fisher_importance(backbone, batches, probe.logits))

    Args:
        trunk: the frozen backbone.
        depths: the kept blocks.
        reduction: r, which divides the width of the backbone's heads; 8 is the authors' default.
        gate: `learnable` as above, or `none`: h + Linear_i(x_i).
        init: `random` or `pruned`.
        generator: source of the initial values.

    Raises:
        PlacementError: a backbone whose states differ in shape, or whose blocks are not timm's plain ViT block.
        ConfigError: a reduction that does not divide its heads.
    """

    first_depth: int | None = None

    def __init__(
        self,
        trunk: Trunk,
        depths: Sequence[int],
        *,
        reduction: Annotated[int, AtLeast(1)] = 8,
        gate: Gate = "learnable",
        init: Init = "random",
        generator: Generator,
    ) -> None:
        super().__init__()
        require_one_width(trunk, "ladder")
        self._trunk = trunk
        frozen = {str(depth): frozen_block(trunk, depth) for depth in depths}
        some = next(iter(frozen.values()))
        width = side_width(trunk, some, reduction)
        self.start_down = default_linear(trunk.width, width, generator)
        self.down = nn.ModuleDict({name: default_linear(trunk.width, width, generator) for name in frozen})
        self.gate = nn.ParameterDict({name: torch.zeros(1) for name in frozen if gate == "learnable"})
        self.blocks = nn.ModuleDict({name: build_side_block(block, width, generator) for name, block in frozen.items()})
        self.norm = norm_like(some.norm1, width)
        self.up = default_linear(width, trunk.width, generator)
        if init == "pruned":
            self.copy_from(trunk, weight_importance(trunk))

    def copy_from(self, trunk: Trunk, importance: Mapping[str, Tensor]) -> None:
        """Cut the side blocks and the norm out of frozen weights, keeping the rows of most importance.

        Args:
            trunk: the backbone that this ladder was built for.
            importance: of each weight of the model, by its name; see `utuning.tuners.pruning`.
        """
        prune_into({int(name): block for name, block in self.blocks.items()}, self.norm, trunk, importance)

    def start(self, x_BND: Tensor) -> Tensor:
        """The first h."""
        h_BNd: Tensor = self.start_down(x_BND)
        return h_BNd

    def step(self, depth: int, before_BND: Tensor, after_BND: Tensor, carried: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mix a kept block's output into h, and run the side block."""
        name = str(depth)
        if name not in self.blocks:
            return carried, None
        rung_BNd = self.down[name](after_BND)
        if name not in self.gate:
            return self.blocks[name](carried + rung_BNd), None
        mu = torch.sigmoid(self.gate[name] / TEMPERATURE)
        return self.blocks[name](mu * carried + (1 - mu) * rung_BNd), None

    def features(self, x_BND: Tensor, carried: Tensor) -> Tensor:
        """Back to the backbone's width, pooled: (B, D). The backbone's last stream itself is not read."""
        return self._trunk.pool(self.up(self.norm(carried)))
