"""The 3x3 convolution over an image's grid of tokens, which starts as the identity."""

from typing import cast

from torch import nn
from torch.nn.utils import skip_init

KERNEL = 3
CENTRE = KERNEL // 2


def identity_conv(width: int, *, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution with a border of zeros that gives each channel back: 1 at its own centre, all else 0."""
    made = skip_init(nn.Conv2d, width, width, KERNEL, padding=CENTRE, groups=groups, bias=bias)  # type: ignore[no-untyped-call]
    conv = cast(nn.Conv2d, made)
    nn.init.dirac_(conv.weight, groups)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
