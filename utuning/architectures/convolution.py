"""What the convolutional families share: residual blocks around a branch, and pooling over pixels."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from utuning.architectures.sites import BDHW, BlockSite, OpSite, named_layers

conv_site = partial(OpSite, layout=BDHW)


def run_chain(block: nn.Module, names: Sequence[str], x_BDHW: Tensor) -> Tensor:
    """Run children of a block one after the other."""
    for name in names:
        x_BDHW = getattr(block, name)(x_BDHW)
    return x_BDHW


def conv_block(
    model: nn.Module,
    block: nn.Module,
    depth: int,
    *,
    width: int,
    branch: Callable[[Tensor], Tensor] | None,
    merge: Callable[[Tensor, Tensor], Tensor] = Tensor.add,
    enter: OpSite | None = None,
) -> BlockSite:
    """The sites of a block that merges what `branch` gives into the stream; without a branch it is all `enter`."""
    site = partial(conv_site, depth=depth, width=width, layers=named_layers(model, block))
    whole = site(kind="block", run=block)
    if branch is None:
        return BlockSite(ops=(), whole=whole, enter=site(kind="enter", run=block))
    return BlockSite(ops=(site(kind="conv", run=branch, merge=merge),), whole=whole, enter=enter)


def pool_pixels(pool: nn.Module, x_BND: Tensor) -> Tensor:
    """Pool tokens with a module that pools the pixels of (B, D, H, W)."""
    pooled_BD: Tensor = pool(x_BND.transpose(1, 2).unsqueeze(-1)).flatten(1)
    return pooled_BD
