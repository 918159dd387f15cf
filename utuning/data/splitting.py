"""Splitting classes deterministically, and checking that splits fit together."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from utuning.data.faults import fault, shorten


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a checked image without its bytes."""

    path: str
    label: str
    split: str
    digest: str
    size: int


def class_order(labels: Iterable[str]) -> list[str]:
    """Sort class names, the numbers in them by value."""
    return sorted(
        set(labels),
        key=lambda label: (
            [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", label) if part],
            label,
        ),
    )


def split_off(records: Sequence[Record], split: str, fraction: float, seed: int) -> list[Record]:
    """Move a share of each class from "train" to `split`, at least one image of two or more.

    The choice depends on the seed and the image bytes alone, not on order or file names.
    """
    by_class: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        if record.split == "train":
            by_class[record.label].append(at)
    moved: set[int] = set()
    for places in by_class.values():
        share = min(max(round(len(places) * fraction), 1), len(places) - 1)
        places.sort(key=lambda at: _rank(records[at].digest, split, seed))
        moved.update(places[:share])
    return [replace(record, split=split) if at in moved else record for at, record in enumerate(records)]


def _rank(digest: str, split: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {split} {digest}".encode()).hexdigest()


def check_classes(records: Iterable[Record]) -> None:
    """Raise `DataError` for classes that cannot be both learned and tested."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.label].add(record.split)
    for present, absent in (("test", "train"), ("val", "train"), ("train", "test")):
        odd = class_order(label for label, where in splits.items() if present in where and absent not in where)
        if odd:
            raise fault(
                f"{len(odd)} classes have images in {present} but none in {absent}: {shorten(odd)}",
                "classes with images in both train and test",
                f"add images of them to {absent} or remove them from {present}",
            )


def duplicate_warnings(records: Iterable[Record]) -> list[str]:
    """Say how many images occur, byte for byte, in more than one split."""
    places: dict[str, set[str]] = defaultdict(set)
    for record in records:
        places[record.digest].add(record.split)
    pairs = Counter(" and ".join(sorted(where)) for where in places.values() if len(where) > 1)
    return [f"{count} images occur in {where}" for where, count in sorted(pairs.items())]
