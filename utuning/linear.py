"""Linear layers whose initial values come from a given generator, so that no global random state decides them."""

from typing import cast

from torch import nn
from torch.nn.utils import skip_init


def empty_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer without initial values; the caller sets all of them."""
    return cast(nn.Linear, skip_init(nn.Linear, in_features, out_features))  # type: ignore[no-untyped-call]
