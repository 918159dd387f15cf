"""A bank: the tuners of many bundles as tensors of one fixed size, for a graph that takes them as inputs.

A slot is a formula at a site of the backbone, with the sizes of its tensors; the slots of a bank are fixed when its
graph is made, from the bundles that are given then. Any bundle whose tuners find a slot, and are no wider, goes in
later. All tensors are padded with zeros, and a tuner that is not there is all zeros: it changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from utuning.architectures import Trunk
from utuning.backbone import Backbone
from utuning.errors import ConfigError
from utuning.exporting.families import FAMILIES, MASKED, Values, family_of, refused
from utuning.member import Member

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A family's place: an op site, or one of its layers where the family changes layers; sizes of its tensors."""

    family: str
    kind: str
    depth: int
    layer: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def name(self) -> str:
        """What its tensors' names begin with."""
        return f"{self.family}.{self.layer or f'{self.kind}.{self.depth}'}"


@dataclass(frozen=True, kw_only=True)
class Bank:
    """What a graph takes: slots, and heads of up to `num_classes` classes over `num_features`."""

    backbone: str
    backbone_fingerprint: str
    num_features: int
    num_classes: int
    slots: tuple[Slot, ...]

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        members: Mapping[str, Member],
        max_width: int | None = None,
        max_classes: int | None = None,
    ) -> "Bank":
        """The smallest bank for some members, by their names, or one with room for wider ones and more classes.

        Raises:
            ConfigError: a method that cannot be an input, two that cannot share a site, or a width below the members'.
        """
        slots: dict[str, Slot] = {}
        for name, member in members.items():
            for slot, values in _values(backbone.trunk, member):
                known = slots.setdefault(slot.name, slot)
                slots[slot.name] = replace(known, shapes=_larger(known.shapes, _shapes(values)))
                if max_width is not None:
                    slots[slot.name] = _widened(slots[slot.name], max_width, name)
        _refuse_taps_instead(slots.values())
        most = max(member.num_classes for member in members.values())
        if max_classes is not None and max_classes < most:
            raise ConfigError(f"a tuner has {most} classes; allowed: at least as many in the bank, not {max_classes}")
        return cls(
            backbone=backbone.config.name,
            backbone_fingerprint=backbone.fingerprint,
            num_features=backbone.num_features,
            num_classes=max_classes or most,
            slots=tuple(slots[name] for name in sorted(slots)),
        )

    @torch.no_grad()
    def pack(self, backbone: Backbone, members: Mapping[str, Member]) -> dict[str, Tensor]:
        """Members as the inputs of the bank's graph, [T, …] each, in the order of the members.

        Raises:
            ConfigError: a member of another backbone, or one that has no slot or is larger than its slot.
        """
        packed = {name: torch.zeros(len(members), *shape) for name, shape in self.shapes().items()}
        packed[HEAD_BIAS] += MASKED
        for place, (name, member) in enumerate(members.items()):
            for key, value in self._tensors(backbone, name, member).items():
                room = packed[key][place]
                if any(size > most for size, most in zip(value.shape, room.shape, strict=True)):
                    raise ConfigError(
                        f"{name!r} has {key} of size {tuple(value.shape)}; allowed: at most {tuple(room.shape)} in "
                        "this bank; make a graph with more room: --max-width, --max-classes"
                    )
                room[tuple(map(slice, value.shape))] = value
        return packed

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The size of each input for one tuner, in the order of the graph's inputs: that of their names."""
        shapes = {f"{slot.name}.{key}": shape for slot in self.slots for key, shape in slot.shapes.items()}
        shapes |= {HEAD_WEIGHT: (self.num_classes, self.num_features), HEAD_BIAS: (self.num_classes,)}
        return dict(sorted(shapes.items()))

    def _tensors(self, backbone: Backbone, name: str, member: Member) -> dict[str, Tensor]:
        if member.backbone_fingerprint != self.backbone_fingerprint:
            raise ConfigError(
                f"{name!r} is of a backbone with fingerprint {member.backbone_fingerprint[:16]}…, and this graph is "
                f"{self.backbone} with {self.backbone_fingerprint[:16]}…; make a graph for it"
            )
        found = {HEAD_WEIGHT: _head(member).weight, HEAD_BIAS: _head(member).bias}
        known = {slot.name for slot in self.slots}
        for slot, values in _values(backbone.trunk, member):
            if slot.name not in known:
                raise ConfigError(
                    f"{name!r} has {slot.family} in {slot.layer or slot.kind} at depth {slot.depth}, for which this "
                    f"graph has no input; allowed: {', '.join(sorted(known)) or 'linear heads alone'}; make a graph "
                    "with it"
                )
            found |= {f"{slot.name}.{key}": value for key, value in values.items()}
        return found


def _values(trunk: Trunk, member: Member) -> list[tuple[Slot, Values]]:
    """A member's tuners: where each stands, and its tensors as wide as it is."""
    if member.own_trunk is not None:
        raise refused("a method that trains copies of the backbone's own weights")
    _head(member)
    found = []
    for placed in member.placed:
        if placed.where is None:
            raise refused(placed.name[0])
        name = family_of(placed.name[0], placed.tuner)
        kind, depth = placed.where
        for layer, values in FAMILIES[name].values(placed.tuner, trunk.site(kind, depth)).items():
            found.append((Slot(family=name, kind=kind, depth=depth, layer=layer, shapes=_shapes(values)), values))
    return found


def _head(member: Member) -> nn.Linear:
    head = member.parts["head"]
    if type(head) is not nn.Linear:
        raise refused(f"a {type(head).__name__}")
    return head


def _shapes(values: Values) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in values.items()}


def _larger(one: Mapping[str, Sequence[int]], other: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(map(max, one[key], other[key])) for key in one}


def _widened(slot: Slot, width: int, name: str) -> Slot:
    """The same slot with tensors of this width."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in slot.shapes.items():
        at = FAMILIES[slot.family].widths[key]
        if at is not None and shape[at] > width:
            raise ConfigError(
                f"{name!r} has {slot.name} of width {shape[at]}; allowed: at most --max-width, which is {width}; the "
                "ranks of all updates of one layer count together"
            )
        shapes[key] = shape if at is None else (*shape[:at], width, *shape[at + 1 :])
    return replace(slot, shapes=shapes)


def _refuse_taps_instead(slots: Iterable[Slot]) -> None:
    """What stands instead of an op leaves nothing to reach into, for any row of the graph."""
    roles: dict[Any, dict[str, str]] = {}
    for slot in slots:
        roles.setdefault((slot.kind, slot.depth), {})[FAMILIES[slot.family].role] = slot.family
    for (kind, depth), found in roles.items():
        if {"instead", "inside"} <= found.keys():
            raise ConfigError(
                f"{found['instead']} and {found['inside']} are both in {kind} at depth {depth}, and one graph cannot "
                "have both there; make a graph for each of the two"
            )
