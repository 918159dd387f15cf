"""RepAdapter: a linear adapter that folds into the layers after it (arXiv 2302.08106)."""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear

from utuning.architectures import OpSite
from utuning.errors import ConfigError, PlacementError
from utuning.linear import xavier_linear
from utuning.settings import AtLeast
from utuning.tuners.folding import bias_of, channel_dim
from utuning.tuners.roles import Tap
from utuning.tuners.scale import constant_scale

READERS = ("qkv", "qk", "kv", "q", "k", "v", "q_proj", "k_proj", "v_proj", "fc1", "fc1_g", "fc1_x")
"""Layers that read what the op's norm gives, by the last component of their name in timm."""
OTHERS = ("proj", "out_proj", "fc2")
"""Layers of the same width that read something else."""


class RepAdapter(nn.Module):
    """z <- z + s * (B (A z + a) + b) on the output z of the op's norm; no activation, so it can be folded.

    A (r, D) is dense, B (D, r) is block-diagonal in G groups. Parameters: Dr + r + Dr/G + D. A is Xavier-uniform, the
    rest zero: the identity at init. The source drops out 0.1 of A z in training; here nothing is dropped, because a
    member may draw nothing that depends on who trains beside it. Merged into the layers that read z:
    W' = W (I + s B A), b' = b + W s (B a + b); exact where they read z and nothing else, not where zeros are put
    around z before, as windows on images of odd sizes do.

    Args:
        site: the op whose first norm it follows.
        bottleneck_dim: r.
        num_groups: G.
        scale: s, fixed; the source sets it for each data set, 0.1 on CIFAR-100.
        generator: source of the initial values.

    Raises:
        PlacementError: the op does not start with a norm of tokens.
        ConfigError: r or D that G groups do not divide, or scale 0.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 8,
        num_groups: Annotated[int, AtLeast(1)] = 2,
        scale: float = 0.1,
        generator: Generator,
    ) -> None:
        super().__init__()
        if bottleneck_dim % num_groups or site.width % num_groups:
            raise ConfigError(
                f"rep_adapter: num_groups {num_groups} does not divide bottleneck_dim {bottleneck_dim} and the width "
                f"{site.width} of {site.kind} at depth {site.depth}; give one that divides both"
            )
        self._norm = _norm_name(site)
        self.scale = constant_scale(scale)
        self.down = xavier_linear(site.width, bottleneck_dim, generator)
        self.up_weight = nn.Parameter(torch.zeros(num_groups, site.width // num_groups, bottleneck_dim // num_groups))
        self.up_bias = nn.Parameter(torch.zeros(site.width))

    def taps(self) -> Mapping[str, Tap]:
        """The adapter after the op's norm."""
        return {self._norm: self._after}

    @torch.no_grad()
    def merge(self, layers: Mapping[str, nn.Module]) -> None:
        """Fold it into the layers that read the norm's output.

        Raises:
            ConfigError: it is not known which layers these are.
        """
        up_Dr = self._up()
        shift_D = self.scale * (up_Dr @ self.down.bias + self.up_bias)
        for name, layer in _readers(layers, self.down.in_features).items():
            bias_of(name, layer).add_(layer.weight @ shift_D)
            layer.weight.add_(self.scale * (layer.weight @ up_Dr) @ self.down.weight)

    def _after(self, x: Tensor, z_BND: Tensor) -> Tensor:
        return z_BND + self.scale * linear(self.down(z_BND), self._up(), self.up_bias)

    def _up(self) -> Tensor:
        """B (D, r), with its zeros."""
        up_Dr: Tensor = torch.block_diag(*self.up_weight)  # type: ignore[no-untyped-call]
        return up_Dr


def _norm_name(site: OpSite) -> str:
    for name, layer in site.layers.items():
        if layer is site.norm and channel_dim(layer) == -1:
            return name
    raise PlacementError(
        f"rep_adapter follows the norm that an op starts with, and {site.kind} at depth {site.depth} starts with none "
        "over tokens; choose other ops or another method"
    )


def _readers(layers: Mapping[str, nn.Module], width: int) -> dict[str, nn.Linear]:
    readers: dict[str, nn.Linear] = {}
    for name, layer in layers.items():
        leaf = name.rpartition(".")[2]
        if isinstance(layer, nn.Linear) and leaf in READERS:
            readers[name] = layer
        elif getattr(layer, "in_features", getattr(layer, "in_channels", 0)) == width and leaf not in OTHERS:
            raise ConfigError(f"rep_adapter does not know whether layer {name} reads the op's norm; keep it unmerged")
    if not readers:
        raise ConfigError(f"rep_adapter knows none of the layers {', '.join(layers)} to fold into; keep it unmerged")
    return readers
