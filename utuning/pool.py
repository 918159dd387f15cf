"""A pool of tuners on one frozen backbone: many bundles in memory, and batches in which each row has its own tuner.

The law: a row's logits are those of its bundle alone (fp32; 1e-5). What is frozen runs once for all rows; an image that
several tuners ask for runs once up to where each first changes it; rows of tuners with one configuration go through
grouped matrix products, whatever their classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from threading import Lock
from typing import Literal
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from utuning.backbone import Backbone
from utuning.bundles.bundle import Bundle
from utuning.configs import Precision, TunerConfig
from utuning.errors import PoolError, nearest
from utuning.member import Member
from utuning.pooling.mapping import Part, banks
from utuning.pooling.stack import Stack
from utuning.pooling.structure import Structure, split_tuners, structure_key
from utuning.precision import autocast
from utuning.streams import run_streams

STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(eq=False)
class Held:
    """A loaded tuner, and when it was last used."""

    body: Part
    head: Part
    used: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return sum(part.packed.nbytes for part in (self.body, self.head))


class TunerPool:
    """Tuners of any methods with heads of any number of classes, by name, on one backbone.

    Threads may load, unload and predict at the same time. The table of names is copied on write: a prediction under way
    keeps the tuners that it began with. Predictions run one after another. A held tuner is a vector of its values and
    no more, so one more tuner costs its own bytes. Copies of the backbone's weights (full, partial and bias tuning) run
    over their own rows, one tuner after another; so do prompts, for each length.

    Args:
        backbone: the frozen backbone, on the device to compute on; the pool shares its weights.
        byte_budget: most bytes of all held tuners; the least recently used ones make room. None: no bound.
        storage: what held values are stored in. They compute in the backbone's dtype.
        precision: `auto` is bf16 autocast on a GPU and fp32 on a CPU.
    """

    def __init__(
        self,
        backbone: Backbone,
        byte_budget: int | None = None,
        *,
        storage: Literal["fp32", "fp16", "bf16"] = "fp32",
        precision: Precision = "auto",
    ) -> None:
        # Hooks go into the modules that run, and building a tuner copies modules: neither may meet the other.
        self._backbone = replace(backbone, trunk=backbone.trainable_trunk(()))
        self._trunk = backbone.trainable_trunk(())
        some = next(backbone.trunk.model.parameters())
        self._device, self._dtype = some.device, some.dtype
        self.byte_budget, self._stored, self._precision = byte_budget, STORED[storage], precision
        self._table: Mapping[str, Held] = {}
        self._structures: WeakValueDictionary[str, Structure] = WeakValueDictionary()
        self._clock = count()
        self._writing, self._running = Lock(), Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The tuners that are held."""
        return tuple(self._table)

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes that each held tuner takes, its head included."""
        return {name: held.num_bytes for name, held in self._table.items()}

    def load(self, name: str, tuner: Member | Bundle) -> tuple[str, ...]:
        """Hold a copy of a tuner's values under a name; one that has the name already is replaced.

        Returns the names that had to go, least recently used first.

        Raises:
            PoolError: a tuner of another backbone, larger than the budget, or with values that are no finite numbers
                as they are stored.
            BundleError: a bundle of another backbone, or one whose tensors do not fit.
        """
        member = tuner if isinstance(tuner, Member) else tuner.member(self._backbone)
        held = self._held(name, member)
        with self._writing:
            table = {**self._table, name: held}
            gone = _to_evict(table, name, self.byte_budget)
            self._table = {each: held for each, held in table.items() if each not in gone}
        return gone

    def unload(self, name: str) -> None:
        """Forget a tuner.

        Raises:
            PoolError: no such tuner.
        """
        with self._writing:
            self._find(self._table, [name])
            self._table = {each: held for each, held in self._table.items() if each != name}

    @torch.no_grad()
    def predict(
        self, images_B3HW: Tensor, names: Sequence[str], image_of_row: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Logits of each row, (num_classes,) of its own tuner, on the pool's device.

        Args:
            images_B3HW: uint8 images of the backbone's input size.
            names: the tuner of each row.
            image_of_row: the image of each row, by its place in the batch; None: a row for each image, in order.

        Raises:
            PoolError: an unknown tuner, or rows that do not fit the images.
        """
        held = self._find(self._table, names)
        images_of = _checked(images_B3HW, len(held), image_of_row, self._backbone.preprocessing.img_size)
        for each in held:
            each.used = next(self._clock)
        if not held:
            return []
        with self._running, autocast(self._device, self._precision):
            images_B3HW = self._backbone.normalise(images_B3HW.to(self._device))
            features_RF = self._features(images_B3HW, [each.body for each in held], images_of)
            return self._logits(features_RF, [each.head for each in held])

    def _features(self, images_B3HW: Tensor, bodies: Sequence[Part], images_of: Sequence[int]) -> Tensor:
        found = list(banks(bodies, self._dtype))
        stacks = [Stack(bank, [images_of[row] for row in rows]) for bank, rows in found]
        features_RF = torch.cat(run_streams(self._trunk, stacks, images_B3HW))
        order = torch.tensor([row for _, rows in found for row in rows], device=self._device)
        return features_RF[order.argsort()]

    def _logits(self, features_RF: Tensor, heads: Sequence[Part]) -> list[Tensor]:
        logits: dict[int, Tensor] = {}
        for bank, rows in banks(heads, self._dtype):
            structure = bank.structure
            scores = bank.call(list(structure.shapes), structure.modules.head, features_RF[rows])
            logits |= dict(zip(rows, scores.float(), strict=True))
        return [logits[row] for row in range(len(heads))]

    def _held(self, name: str, member: Member) -> Held:
        if member.backbone_fingerprint != self._backbone.fingerprint:
            raise PoolError(
                f"{name!r} is of a backbone with fingerprint {member.backbone_fingerprint[:16]}…, and this pool's is "
                f"{self._backbone.config.name} with {self._backbone.fingerprint[:16]}…; load it into a pool of its own"
            )
        body, head = split_tuners(member.tuners)
        tensors = member.tensors()
        held = Held(
            self._part(body, None, tensors), self._part(head, member.num_classes, tensors), used=next(self._clock)
        )
        if not all(bool(part.packed.isfinite().all()) for part in (held.body, held.head)):
            raise PoolError(
                f"{name!r} has values that are no finite numbers, as {self._stored}; train it again"
                + (", or use a pool with storage 'fp32'" if self._stored != torch.float32 else "")
            )
        if self.byte_budget is not None and held.num_bytes > self.byte_budget:
            raise PoolError(
                f"{name!r} takes {held.num_bytes:,} bytes, and the pool's budget is {self.byte_budget:,}; "
                "give the pool a larger one"
            )
        return held

    def _part(self, tuners: Sequence[TunerConfig], num_classes: int | None, tensors: Mapping[str, Tensor]) -> Part:
        key = structure_key(tuners, num_classes)
        with self._writing:
            structure = self._structures.get(key)
        if structure is None:
            structure = Structure(self._backbone, tuners, num_classes)
            with self._writing:
                structure = self._structures.setdefault(key, structure)
        return Part(structure, structure.pack(tensors, self._stored).to(self._device))

    def _find(self, table: Mapping[str, Held], names: Sequence[str]) -> list[Held]:
        unknown = next((name for name in names if name not in table), None)
        if unknown is not None:
            raise PoolError(f"the pool holds no tuner {unknown!r}; {nearest(unknown, table)}")
        return [table[name] for name in names]


def _to_evict(table: Mapping[str, Held], new: str, byte_budget: int | None) -> tuple[str, ...]:
    """The least recently used tuners that have to go for the rest to fit, never the new one."""
    if byte_budget is None:
        return ()
    excess = sum(held.num_bytes for held in table.values()) - byte_budget
    gone = []
    for name in sorted(table, key=lambda name: table[name].used):
        if excess > 0 and name != new:
            excess -= table[name].num_bytes
            gone.append(name)
    return tuple(gone)


def _checked(images_B3HW: Tensor, num_rows: int, image_of_row: Sequence[int] | None, size: int) -> Sequence[int]:
    """The image of each row."""
    if images_B3HW.dtype != torch.uint8 or images_B3HW.shape[1:] != (3, size, size):
        raise PoolError(
            f"images are {tuple(images_B3HW.shape)} {images_B3HW.dtype}; give torch.uint8 of (B, 3, {size}, {size})"
        )
    images_of = range(len(images_B3HW)) if image_of_row is None else image_of_row
    if len(images_of) != num_rows:
        raise PoolError(f"{num_rows} rows have names, and {len(images_of)} have images; give each row one of both")
    outside = next((image for image in images_of if not 0 <= image < len(images_B3HW)), None)
    if outside is not None:
        raise PoolError(f"a row is of image {outside}, and the batch has images 0 to {len(images_B3HW) - 1}")
    return images_of
