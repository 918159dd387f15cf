"""What tuners of one configuration have in common: their modules, and where each value lies in a tuner's vector.

A held tuner is one vector, so that it costs its own bytes and no Python objects. Its modules are built once for all
tuners of a configuration, without values, and called with the values of whose rows pass through them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from math import prod
from typing import Any

import torch
from torch import Size, Tensor, nn

from utuning.architectures import OpSite
from utuning.backbone import Backbone
from utuning.configs import TrainConfig, TunerConfig, digest
from utuning.member import OWN_WEIGHTS, Member
from utuning.tuners import tuner_row
from utuning.tuners.placing import Placed

HEAD = "head."
UNTRAINED = TrainConfig(lr=0.0, epochs=1)


class Modules(nn.Module):
    """A member's modules under the names of its tensors; calls one of their functions."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.tuners, self.head = member.parts["tuners"], member.parts["head"]
        if member.own_trunk is not None:
            self.backbone = member.own_trunk.model

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function gives, while these modules have the values of whom it is called for."""
        return function(*args)


class Structure:
    """The modules of a body (all tuners of a member) or of a head, without values.

    Attributes:
        member: a member with these tuners alone; a body's head and a head's body are not held.
        modules: its modules.
        shapes: of each held tensor, in the order in which a tuner's vector has them.
    """

    def __init__(self, backbone: Backbone, tuners: Sequence[TunerConfig], num_classes: int | None) -> None:
        self.member = Member(backbone, num_classes=num_classes or 1, config=UNTRAINED, tuners=tuners)
        self.shapes: dict[str, Size] = {
            name: value.shape
            for name, value in self.member.tensors().items()
            if name.startswith(HEAD) == (num_classes is not None)
        }
        self.modules = Modules(self.member).requires_grad_(False).eval()
        self._own = [name for name in self.shapes if name.startswith(OWN_WEIGHTS)]
        self._of_site = self._by_site()
        _drop_values(self.modules, self.member.tensors())

    @property
    def fusable(self) -> bool:
        """Whether one call can serve several tuners: copies of the backbone's weights need a call each."""
        return not self._own

    def pack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """A tuner's held tensors as one vector."""
        return torch.cat([torch.empty(0), *(tensors[name].detach().flatten().cpu() for name in self.shapes)]).to(dtype)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Views of a vector (P,), or of those of several tuners (T, P), by the names of the tensors."""
        parts = torch.split(packed, [prod(shape) for shape in self.shapes.values()], dim=-1)
        return {
            name: part.view(*packed.shape[:-1], *shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def of_tuner(self, placed: Placed) -> list[str]:
        """The tensors that a placed tuner reads: its own, and copies of the backbone's weights."""
        prefix = ".".join(("tuners", *placed.name)) + "."
        return [name for name in self.shapes if name.startswith(prefix)] + self._own

    def of_site(self, site: OpSite) -> list[str]:
        """The copies of the backbone's weights that a site reads."""
        return self._of_site[site.where]

    def _by_site(self) -> dict[tuple[str, int], list[str]]:
        """Copies that belong to no site's layers may be read by any: position embeddings, a block's table of biases."""
        sites = [] if self.member.own_trunk is None else self.member.own_trunk.all_sites()
        layer_of = {name: name.removeprefix(OWN_WEIGHTS).rpartition(".")[0] for name in self._own}
        loose = set(layer_of.values()) - {layer for site in sites for layer in site.layers}
        return {
            site.where: [name for name, layer in layer_of.items() if layer in loose or layer in site.layers]
            for site in sites
        }


def split_tuners(tuners: Iterable[TunerConfig]) -> tuple[tuple[TunerConfig, ...], tuple[TunerConfig, ...]]:
    """The configurations of a member's body, and of its head."""
    heads = tuple(each for each in tuners if tuner_row(each.method).role == "head")
    return tuple(each for each in tuners if each not in heads), heads


def structure_key(tuners: Sequence[TunerConfig], num_classes: int | None) -> str:
    """Equal for tuners that can share a structure."""
    return digest({"tuners": [asdict(each) for each in tuners], "num_classes": num_classes}, num_digits=64)


def _drop_values(modules: nn.Module, names: Iterable[str]) -> None:
    """Leave no values: a call has to bring them."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        value = modules.get_parameter(name)
        setattr(modules.get_submodule(path), leaf, nn.Parameter(value.to("meta"), requires_grad=False))
