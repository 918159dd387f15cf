"""Splitting classes deterministically, and checking that splits fit together."""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from utuning.data.examples import Checked
from utuning.data.faults import fault, shorten


def class_order(labels: Iterable[str]) -> list[str]:
    """Sort class names, the numbers in them by value."""
    return sorted(
        set(labels),
        key=lambda label: (
            [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", label) if part],
            label,
        ),
    )


def split_off(records: Sequence[Checked], split: str, fraction: float, seed: int) -> list[Checked]:
    """Move a share of "train" to `split`, as evenly over the classes as whole images allow.

    The share is rounded up in total, and each class gives at least one image of two or more, and never all.
    The choice depends on the seed and the bytes that came alone, not on order, file names or how images are stored.
    """
    by_class: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        if record.split == "train":
            by_class[record.label].append(at)
    shares = _shares({label: len(places) for label, places in by_class.items()}, fraction)
    moved: set[int] = set()
    for label, places in by_class.items():
        places.sort(key=lambda at: _rank(records[at].original, split, seed))
        moved.update(places[: shares[label]])
    return [replace(record, split=split) if at in moved else record for at, record in enumerate(records)]


def _shares(sizes: Mapping[str, int], fraction: float) -> dict[str, int]:
    """Divide the total by largest remainders, ties by name."""
    # A tenth of 6,000 is no whole number in binary.
    total = math.ceil(round(sum(sizes.values()) * fraction, 6))
    exact = {label: size * fraction for label, size in sizes.items()}
    shares = {label: min(max(math.floor(exact[label]), 1), size - 1) for label, size in sizes.items()}
    for label in sorted(sizes, key=lambda label: (shares[label] - exact[label], label)):
        if sum(shares.values()) < total and shares[label] < min(exact[label], sizes[label] - 1):
            shares[label] += 1
    return shares


def _rank(digest: str, split: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {split} {digest}".encode()).hexdigest()


def check_classes(records: Iterable[Checked]) -> None:
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


def drop_unfit_classes(records: Sequence[Checked]) -> tuple[list[Checked], list[str]]:
    """Leave out the classes of a subset that cannot be both learned and tested, and say which."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.label].add(record.split)
    unfit = class_order(label for label, where in splits.items() if not {"train", "test"} <= where)
    said = [f"{len(unfit)} classes without images in both train and test were left out: {shorten(unfit)}"]
    return [record for record in records if record.label not in unfit], said if unfit else []


def duplicate_warnings(records: Iterable[Checked]) -> list[str]:
    """Say how many images occur, byte for byte, in more than one split, and name some."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for record in records:
        places[record.original].setdefault(record.split, record.path)
    pairs: dict[str, list[str]] = defaultdict(list)
    for where in places.values():
        if len(where) > 1:
            pairs[" and ".join(sorted(where))].append(" = ".join(where[split] for split in sorted(where)))
    return [f"{len(same)} images occur in {where}: {shorten(sorted(same), 3)}" for where, same in sorted(pairs.items())]
