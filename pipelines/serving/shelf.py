"""The tuners that a server holds, by name; versions change while it serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor

from pipelines.serving.failures import NUM_SHOWN, RequestError, shown
from utuning.backbone import Backbone
from utuning.bundles.bundle import Bundle
from utuning.bundles.manifest import Manifest
from utuning.errors import PoolError, nearest
from utuning.pool import TunerPool


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """A version of a tuner that is held.

    Args:
        slot: the name under which it is asked for.
        key: its name in the pool, which no other version ever has.
        version: what answers say it is.
        alias: through which it was found, if any.
        manifest: of its bundle.
        num_bytes: that it takes.
    """

    slot: str
    key: str
    version: str
    alias: str | None
    manifest: Manifest
    num_bytes: int

    def as_json(self) -> dict[str, Any]:
        """What a list of tuners says of it."""
        manifest = self.manifest
        return {
            "tuner": self.slot,
            "version": self.version,
            "alias": self.alias,
            "method": manifest.method,
            "trial_id": manifest.trial_id,
            "dataset": manifest.dataset,
            "backbone": manifest.backbone.name,
            "num_classes": len(manifest.class_names),
            "metrics": dict(manifest.metrics),
            "bytes": self.num_bytes,
        }


@dataclass(frozen=True)
class Scored:
    """The probabilities (C,) that a tuner gives one image."""

    tuner: Tuner
    probabilities: Tensor


class Shelf:
    """Tuners on one backbone, in one pool.

    The table of names is copied on write, and no version shares its key with another: labels and scores of an answer
    are always of one version, and a swap makes no request wait or fail.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        byte_budget: int | None = None,
        storage: Literal["fp32", "fp16", "bf16"] = "fp32",
    ) -> None:
        self.backbone = backbone
        self._pool = TunerPool(backbone, byte_budget, storage=storage)
        self._table: Mapping[str, Tuner] = {}
        self._writing = Lock()
        self._count = count(1)

    @property
    def tuners(self) -> Mapping[str, Tuner]:
        """What is held, by name."""
        return self._table

    def put(self, slot: str, bundle: Bundle, version: str, alias: str | None = None) -> tuple[str, ...]:
        """Hold a bundle under a name, in place of what has the name. Returns the names that had to make room.

        Raises:
            BundleError: it does not fit the backbone, or answers its probe otherwise.
            PoolError: it cannot be held.
        """
        with self._writing:
            key = f"{slot}#{next(self._count)}"
            gone = self._pool.load(key, bundle)
            tuner = Tuner(
                slot=slot,
                key=key,
                version=version,
                alias=alias,
                manifest=bundle.manifest,
                num_bytes=self._pool.bytes[key],
            )
            before = self._table.get(slot)
            evicted = tuple(name for name, held in self._table.items() if held.key in gone)
            kept = {name: held for name, held in self._table.items() if name not in evicted}
            self._table = {**kept, slot: tuner}
            if before is not None and slot not in evicted:
                self._pool.unload(before.key)
            return tuple(name for name in evicted if name != slot)

    def drop(self, slot: str) -> None:
        """Forget a tuner.

        Raises:
            RequestError: no such tuner.
        """
        with self._writing:
            tuner = self.find(slot)
            self._table = {name: held for name, held in self._table.items() if name != slot}
            self._pool.unload(tuner.key)

    def find(self, slot: str) -> Tuner:
        """The tuner of a name.

        Raises:
            RequestError: no such tuner.
        """
        table = self._table
        if slot not in table:
            # Cut: looking for a near name takes time that grows with the square of its length.
            hint = nearest(slot[:NUM_SHOWN], table) if table else "none is loaded"
            raise RequestError(404, "unknown_tuner", f"no tuner is called {shown(slot)}; {hint}")
        return table[slot]

    def score(self, images_B3HW: Tensor, slots: Sequence[str], image_of_row: Sequence[int]) -> list[Scored | Exception]:
        """What each row's tuner says of its image; a row whose tuner has gone, or gives no numbers, has an error."""
        while True:
            table = self._table
            rows = [row for row, slot in enumerate(slots) if slot in table]
            tuners = [table[slots[row]] for row in rows]
            try:
                logits = self._pool.predict(
                    images_B3HW, [each.key for each in tuners], [image_of_row[row] for row in rows]
                )
                break
            except PoolError:
                # A version that was just replaced or evicted: the table says so as soon as its writer is done.
                with self._writing:
                    if table is self._table:
                        raise
        found = {row: _scored(tuner, each) for row, tuner, each in zip(rows, tuners, logits, strict=True)}
        return [found[row] if row in found else self._gone(slot) for row, slot in enumerate(slots)]

    def _gone(self, slot: str) -> Exception:
        return RequestError(404, "unknown_tuner", f"tuner {slot!r} was unloaded a moment ago; GET /v1/tuners lists all")


def _scored(tuner: Tuner, logits: Tensor) -> Scored | Exception:
    if not bool(torch.isfinite(logits).all()):
        return RequestError(
            500,
            "no_numbers",
            f"tuner {tuner.slot!r} gives scores that are no finite numbers for this image; leave it out, or serve it "
            "with --storage fp32",
        )
    return Scored(tuner, logits.softmax(dim=-1).cpu())
