"""Laws of the val split: exact in total, even over classes, the same whatever the order or the names."""

import hashlib
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utuning.data.examples import Checked, Example
from utuning.data.fgvc.table import READERS
from utuning.data.protocols import PROTOCOLS, find_protocol
from utuning.data.splitting import split_off
from utuning.errors import ConfigError

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)
FRACTIONS = st.sampled_from([0.05, 0.1, 0.2, 0.5])


def checked(label: int, number: int) -> Checked:
    path = f"{label}/{number}"
    source = Example(path=path, label=str(label), split="train", data=b"")
    digest = hashlib.sha256(path.encode()).hexdigest()
    return Checked(path=path, label=str(label), split="train", digest=digest, size=0, original=digest, source=source)


def made(sizes: list[int]) -> list[Checked]:
    return [checked(label, number) for label, size in enumerate(sizes) for number in range(size)]


def val(records: list[Checked]) -> set[str]:
    return {record.digest for record in records if record.split == "val"}


@given(SIZES, FRACTIONS, st.integers(0, 3))
def test_val_is_a_share_of_each_class_and_leaves_some_to_train(sizes: list[int], fraction: float, seed: int) -> None:
    records = split_off(made(sizes), "val", fraction, seed)
    taken = Counter(record.label for record in records if record.split == "val")
    for label, size in enumerate(sizes):
        share = taken[str(label)]
        assert share <= size - 1
        assert share >= min(1, size - 1)
        assert share <= max(1, math.ceil(size * fraction))
    if min(sizes) * fraction >= 1:
        assert sum(taken.values()) == math.ceil(round(sum(sizes) * fraction, 6))


@given(SIZES, st.randoms(use_true_random=False))
def test_val_does_not_depend_on_order_or_names(sizes: list[int], rng: random.Random) -> None:
    records = made(sizes)
    moved = [replace(record, path=f"x{n}") for n, record in enumerate(records)]
    rng.shuffle(moved)
    assert val(split_off(moved, "val", 0.1, 0)) == val(split_off(records, "val", 0.1, 0))


@pytest.mark.parametrize("name", [name for name, row in READERS.items() if row.expected.published])
def test_a_tenth_of_the_official_train_is_what_comparisons_publish(name: str) -> None:
    expected = READERS[name].expected
    total, classes = expected.counts["train"], expected.num_classes
    sizes = [total // classes + (label < total % classes) for label in range(classes)]
    splits = Counter(record.split for record in split_off(made(sizes), "val", 0.1, 0))
    assert {**splits, "test": expected.counts["test"]} == expected.published


def test_protocols_are_found_or_named() -> None:
    assert set(PROTOCOLS) == {"vpt", "trainval-final", "official"}
    assert find_protocol("trainval-final").final_splits == ("train", "val")
    assert not find_protocol("official").holds_out
    with pytest.raises(ConfigError, match="did you mean 'official'"):
        find_protocol("oficial")
