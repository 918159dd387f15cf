"""A split that is read row by row from its shards gives what the same split in memory gives."""

import os
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_data_loader import P, png
from utuning.batch import Batch
from utuning.data import stored
from utuning.data.examples import Example
from utuning.data.info import DatasetInfo
from utuning.data.loader import Loader
from utuning.data.opening import read_first, read_split
from utuning.data.rows import TableRows
from utuning.data.shards import write_dataset
from utuning.data.stored import SplitRef, opened, shared_split, stored_rows
from utuning.errors import DataError

NAMES = ("a", "b", "c")


def write(to: Path, images: list[bytes], rows_per_shard: int = 4, **options: bool) -> DatasetInfo:
    rows = [Example(path=f"{n}.png", label=NAMES[n % 3], split="train", data=data) for n, data in enumerate(images)]
    return write_dataset(rows, to, name="d", class_names=NAMES, rows_per_shard=rows_per_shard, **options)


# Values that hold others' lengths and bytes, and some that are larger than a page, which is a megabyte.
hard = st.one_of(
    st.binary(max_size=9),
    st.sampled_from([b"", b"\x01\x00\x00\x00a", b"a", b"\x00" * 300, b"\x00\x00\x00\x00" * 9]),
    st.integers(600_000, 1_500_000).map(bytes),
)


@settings(max_examples=40, deadline=None)
@given(images=st.lists(hard, min_size=1, max_size=12), rows_per_shard=st.integers(1, 12))
def test_every_row_is_found_to_the_byte(images: list[bytes], rows_per_shard: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        info = write(Path(folder) / "d", images, rows_per_shard)
        rows, again = (stored_rows(info, "train", Path(folder) / "cache") for _ in range(2))
        in_memory = TableRows(read_split(info, "train"))
        assert np.array_equal(rows.labels, in_memory.labels)
        assert np.array_equal(again.labels, in_memory.labels)
        for row, data in enumerate(images):
            assert rows.image(row)[0] == again.image(row)[0] == in_memory.image(row)[0] == data
        for count in (1, len(images), len(images) + 1):
            assert read_first(info, "train", count).equals(read_split(info, "train").slice(0, count).combine_chunks())


@pytest.mark.parametrize(("workers", "train", "recipe"), product((1, 3), (True, False), ("vpt", "rrc")))
def test_batches_are_those_of_the_split_in_memory(tmp_path: Path, workers: int, train: bool, recipe: str) -> None:
    info = write(tmp_path / "d", [png(n) for n in range(13)])
    splits = (read_split(info, "train"), stored_rows(info, "train", tmp_path / "cache"))

    def epoch(worker: int, split: object) -> list[Batch]:
        options = {"global_batch_size": 6, "worker": worker, "num_workers": workers, "seed": 5}
        return list(Loader(split, P, train=train, recipe=recipe, **options).epoch(2))  # type: ignore[arg-type]

    for worker in range(workers):
        for mine, theirs in zip(*(epoch(worker, split) for split in splits), strict=True):
            for name in ("images", "labels", "weight", "index"):
                assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_what_was_found_is_kept_until_the_shard_changes(tmp_path: Path) -> None:
    info = write(tmp_path / "d", [b"one", b"three"])
    stored_rows(info, "train", tmp_path / "cache")
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    np.save(kept, np.array([[4], [2], [1]]))
    assert stored_rows(info, "train", tmp_path / "cache").labels.tolist() == [1]
    (shard,) = (tmp_path / "d" / "data").iterdir()
    os.utime(shard, ns=(1, 1))
    assert stored_rows(info, "train", tmp_path / "cache").image(1)[0] == b"three"


def test_shards_in_another_form_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    info = write(tmp_path / "d", [b"one" * 50] * 4)
    (shard,) = (tmp_path / "d" / "data").iterdir()
    table = pq.read_table(shard, partitioning=None)
    for options in ({"compression": "snappy"}, {"use_dictionary": True}):
        pq.write_table(table, shard, **options)
        with pytest.raises(DataError, match="another way than plainly"):
            stored_rows(info, "train", tmp_path / "cache")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        stored_rows(info, "train", tmp_path / "cache")
    with pytest.raises(DataError, match="cannot be read"):
        read_first(info, "train", 1)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_small_splits_are_shared_whole_and_large_ones_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = write(tmp_path / "d", [b"one", b"two", b"three"])
    assert shared_split(info, "train") == read_split(info, "train")
    monkeypatch.setattr(stored, "IN_MEMORY_BYTES", 10)
    named = shared_split(info, "train")
    assert isinstance(named, SplitRef)
    assert opened(named, tmp_path / "cache").image(2)[0] == b"three"
    write(tmp_path / "d", [b"one", b"two", b"four"], overwrite=True)
    with pytest.raises(DataError, match="another one here"):
        named.open(tmp_path / "cache")
    with pytest.raises(DataError, match=r"this one cannot .*does not exist.*all machines share"):
        SplitRef(place=str(tmp_path / "gone"), split="train", fingerprint="").open(tmp_path / "cache")
