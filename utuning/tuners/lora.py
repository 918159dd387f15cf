"""LoRA: low-rank updates of frozen linear layers (arXiv 2106.09685)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear

from utuning.architectures import OpSite
from utuning.errors import PlacementError
from utuning.settings import AtLeast
from utuning.tuners.roles import Tap
from utuning.tuners.scale import constant_scale

FUSED = ("qkv", "qk", "kv")
"""Linear layers that timm keeps as equal slices of one, in the order of their letters."""
USUAL = ("q", "k", "v", "qkv", "proj", "fc1", "fc2")
"""Names that one op has and another has not."""


class Update(nn.Module):
    """B A x for some of the equal slices of a linear layer's output: A (r, D_in), B (width of these slices, r)."""

    def __init__(self, layer: nn.Linear, slices: Sequence[int], num_slices: int, rank: int, generator: Generator):
        super().__init__()
        self.slices, self.num_slices = tuple(slices), num_slices
        self.a = nn.Parameter(torch.empty(rank, layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features // num_slices * len(self.slices), rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D_in) -> (…, width of its slices)."""
        return linear(linear(x, self.a), self.b)


class LoRA(nn.Module):
    """y = W x + (alpha / r) B A x on linear layers of the op, each with A and B of its own.

    A is Kaiming-uniform (a = sqrt 5), B zero: the identity at init. Parameters: r (D_in + D_out) for each update. Where
    timm keeps q, k and v in one layer, each letter has its slice: rows [0, D), [D, 2D), [2D, 3D). Merged,
    W' = W + (alpha / r) B A, exactly. No dropout: a member may draw nothing that depends on who trains beside it.

    Args:
        site: the op whose layers it updates.
        layers: `q`, `k`, `v`, or last components of layer names such as `proj`, `fc1`, `fc2`; `qkv` is one update of
            the whole fused layer. With several op kinds, list the layers of all: an op takes those that it has.
        lora_rank: r.
        alpha: numerator of the scale.
        generator: source of the initial values.

    Raises:
        PlacementError: the op has none of the layers, or a name is one that no op is known to have.
        ConfigError: alpha is 0.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        layers: tuple[str, ...] = ("q", "v"),
        lora_rank: Annotated[int, AtLeast(1)] = 8,
        alpha: float = 8.0,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.scale = constant_scale(alpha / lora_rank)
        self.updates = nn.ModuleDict()
        self._at: dict[str, list[str]] = {}
        for key, name, slices in find_updates(site, layers):
            layer = cast(nn.Linear, site.layers[name])
            self.updates[key] = Update(layer, slices, num_slices(name), lora_rank, generator)
            self._at.setdefault(name, []).append(key)

    def taps(self) -> Mapping[str, Tap]:
        """Each layer's output with its updates added."""
        return {name: partial(self._add, name) for name in self._at}

    @torch.no_grad()
    def merge(self, layers: Mapping[str, nn.Module]) -> None:
        """W += (alpha / r) B A, on the update's slices."""
        for name in self._at:
            weight = layers[name].get_parameter("weight")
            for update in self._of(name):
                rows = (self.scale * update.b @ update.a).chunk(len(update.slices))
                for place, delta in zip(update.slices, rows, strict=True):
                    weight.chunk(update.num_slices)[place].add_(delta)

    @torch.no_grad()
    def whole(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each layer's updates as one update of the whole layer: A (R, D_in), B (D_out, R), R the sum of their ranks.

        The updates' own A stand one below the other, and B is zero where an update does not reach: the same map.
        """
        return {
            name: (torch.cat([update.a for update in self._of(name)]), torch.cat([_rows(u) for u in self._of(name)], 1))
            for name in self._at
        }

    def _add(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        slices = list(y.chunk(num_slices(name), dim=-1))
        for update in self._of(name):
            added = (self.scale * update(x)).chunk(len(update.slices), dim=-1)
            for place, delta in zip(update.slices, added, strict=True):
                slices[place] = slices[place] + delta
        return slices[0] if len(slices) == 1 else torch.cat(slices, dim=-1)

    def _of(self, name: str) -> list[Update]:
        return [cast(Update, self.updates[key]) for key in self._at[name]]


def _rows(update: Update) -> Tensor:
    """B over all slices of the layer, (D_out, r)."""
    width = len(update.b) // len(update.slices)
    whole = update.b.new_zeros(update.num_slices, width, update.b.shape[1])
    whole[list(update.slices)] = update.b.view(len(update.slices), width, -1)
    return whole.flatten(0, 1)


def find_updates(site: OpSite, wanted: Sequence[str]) -> list[tuple[str, str, tuple[int, ...]]]:
    """For each update its key, its layer's name, and the slices of that layer that it takes."""
    linears = [name for name, layer in site.layers.items() if isinstance(layer, nn.Linear)]
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for target in dict.fromkeys(wanted):
        here = [(name, slices) for name in linears if (slices := _slices(target, _leaf(name)))]
        if not here and target not in USUAL:
            raise _missing(site, linears, [target])
        found += [(f"{target}_{i}" if len(here) > 1 else target, *each) for i, each in enumerate(here)]
    if not found:
        raise _missing(site, linears, wanted)
    return found


def _slices(target: str, leaf: str) -> tuple[int, ...]:
    """The slices of a layer that a target means; none if it means another layer."""
    if leaf == target or (target in ("q", "k", "v") and leaf == f"{target}_proj"):
        return tuple(range(num_slices(leaf)))
    return (leaf.index(target),) if leaf in FUSED and target in tuple(leaf) else ()


def num_slices(name: str) -> int:
    """How many equal slices timm keeps in the layer of this name."""
    return len(_leaf(name)) if _leaf(name) in FUSED else 1


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _missing(site: OpSite, linears: Sequence[str], wanted: Sequence[str]) -> PlacementError:
    leaves = list(dict.fromkeys(_leaf(name) for name in linears))
    there = f"its linear layers are {', '.join(leaves)}" if leaves else "it has no linear layer"
    fix = f"give layers such as [{', '.join(leaves)}]" if leaves else "choose other ops"
    return PlacementError(
        f"lora finds no layer {' or '.join(map(repr, wanted)) or '(none is named)'} in {site.kind} at depth "
        f"{site.depth}; {there}; {fix}"
    )
