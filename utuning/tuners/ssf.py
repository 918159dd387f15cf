"""SSF: scaling and shifting the features after each frozen layer (arXiv 2210.08823)."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, cast

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import OpSite
from utuning.errors import PlacementError
from utuning.names import short_names
from utuning.settings import AtLeast
from utuning.tuners.folding import channel_dim, fold_after
from utuning.tuners.roles import Tap


class ScaleShift(nn.Module):
    """y = gamma * z + beta, one number of each a channel; `dim` is the channels' dimension."""

    def __init__(self, num_channels: int, dim: int, std: float, generator: Generator) -> None:
        super().__init__()
        self.dim = dim
        self.gamma = nn.Parameter(torch.empty(num_channels))
        self.beta = nn.Parameter(torch.empty(num_channels))
        nn.init.normal_(self.gamma, mean=1.0, std=std, generator=generator)
        nn.init.normal_(self.beta, std=std, generator=generator)

    def forward(self, z: Tensor) -> Tensor:
        """Scale and shift (B, C, …) or (B, …, C)."""
        shape = (-1, *[1] * (z.ndim - 2)) if self.dim == 1 else (-1,)
        return self.gamma.view(shape) * z + self.beta.view(shape)


class SSF(nn.Module):
    """y = gamma * z + beta on the output z of every frozen Linear, Conv2d and norm of the site.

    gamma ~ N(1, std), beta ~ N(0, std) as in the source: not the identity at init. Parameters: 2C for each layer of C
    outputs. Norms are those with one weight a channel: LayerNorm, BatchNorm, GroupNorm, RmsNorm and their 2-d forms.
    A norm that holds its activation is passed over: the map would have to stand between the two. The map after the
    convolution before it can do the same. Merged, W' = diag(gamma) W and b' = gamma b + beta, exactly.

    Args:
        site: the op, stem or norm that it reaches into.
        std: of the initial values; 0 makes it the identity at init.
        generator: source of the initial values.

    Raises:
        PlacementError: the site has no such layer.
    """

    def __init__(self, site: OpSite, *, std: Annotated[float, AtLeast(0)] = 0.02, generator: Generator) -> None:
        super().__init__()
        dims = {name: dim for name, layer in site.layers.items() if (dim := channel_dim(layer)) is not None}
        if not dims and site.kind != "norm":  # a trunk may end without a norm
            raise PlacementError(
                f"ssf finds no linear, convolution or norm layer in {site.kind} at depth {site.depth}; choose other ops"
            )
        self._keys = short_names(dims)
        self.after = nn.ModuleDict()
        for name, dim in dims.items():
            num_channels = len(site.layers[name].get_parameter("weight"))
            self.after[self._keys[name]] = ScaleShift(num_channels, dim, std, generator)

    def taps(self) -> Mapping[str, Tap]:
        """A scale and shift after each layer."""
        return {name: partial(_after, self._map(name)) for name in self._keys}

    def merge(self, layers: Mapping[str, nn.Module]) -> None:
        """Fold each map into its layer.

        Raises:
            ConfigError: a layer that can hold no shift, or gives nothing that is linear in its weight.
        """
        for name in self._keys:
            fold_after(name, layers[name], self._map(name).gamma, self._map(name).beta)

    def _map(self, name: str) -> ScaleShift:
        return cast(ScaleShift, self.after[self._keys[name]])


def _after(scale_shift: ScaleShift, x: Tensor, z: Tensor) -> Tensor:
    y: Tensor = scale_shift(z)
    return y
