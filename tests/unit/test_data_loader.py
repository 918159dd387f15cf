"""The loader's batches, its cache, its thread and its errors."""

import gc
import io
import threading
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from utuning.batch import Batch
from utuning.data.cache import ImageCache
from utuning.data.loader import Loader
from utuning.data.parquet import image_schema
from utuning.data.prefetch import prefetch, timed
from utuning.data.transforms import Preprocessing, eval_transform
from utuning.errors import DataError

P = Preprocessing(img_size=8, resize=10)


def png(seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def table(count: int, bad: int | None = None) -> pa.Table:
    images = [{"bytes": png(n), "path": f"{n}.png"} for n in range(count)]
    if bad is not None:
        images[bad]["bytes"] = b"broken"
    rows = {"image": images, "label": [n % 3 for n in range(count)]}
    return pa.Table.from_pydict(rows, schema=image_schema(["a", "b", "c"]))


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("images", "labels", "weight", "index")
    )


def alive() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_evaluation_keeps_the_order_and_pads_the_end() -> None:
    loader = Loader(table(5), P, global_batch_size=4, train=False)
    first, last = loader.epoch(0)
    assert (len(loader), loader.num_examples, loader.num_classes_seen) == (2, 5, 3)
    assert first.index.tolist() == [0, 1, 2, 3]
    assert torch.equal(first.images[2], eval_transform(P)(png(2)))
    assert last.index.tolist() == [4, -1, -1, -1]
    assert last.weight.tolist() == [1, 0, 0, 0]
    assert last.labels.tolist() == [1, 0, 0, 0]
    assert not last.images[1:].any()
    types = (first.images.dtype, first.labels.dtype, first.weight.dtype, first.index.dtype)
    assert types == (torch.uint8, torch.int64, torch.float32, torch.int64)


@pytest.mark.parametrize("recipe", ["vpt", "rrc", "none"])
def test_neither_cache_nor_threads_change_a_pixel(recipe: str) -> None:
    rows = table(9)
    plain = Loader(rows, P, global_batch_size=4, recipe=recipe, cache_bytes=0)
    cached = Loader(rows, P, global_batch_size=4, recipe=recipe, threads=3)
    partly = Loader(rows, P, global_batch_size=4, recipe=recipe, cache_bytes=1000)
    for epoch in range(3):
        expected = list(plain.epoch(epoch))
        assert equal(expected, list(cached.epoch(epoch)))
        assert equal(expected, list(partly.epoch(epoch)))


def test_epochs_and_seeds_differ() -> None:
    rows = table(9)
    loader = Loader(rows, P, global_batch_size=3)
    assert equal(list(loader.epoch(1)), list(loader.epoch(1)))
    assert not equal(list(loader.epoch(1)), list(loader.epoch(2)))
    other = Loader(rows, P, global_batch_size=3, seed=1)
    assert not equal(list(loader.epoch(1)), list(other.epoch(1)))


def test_the_cache_stays_below_its_limit() -> None:
    cache = ImageCache(100)
    made: list[int] = []

    def make(key: int) -> torch.Tensor:
        made.append(key)
        return torch.zeros(40, dtype=torch.uint8)

    for key in (1, 2, 3, 1, 2, 3):
        cache.get(key, make)
    assert made == [1, 2, 3, 3]


def test_a_corrupt_image_is_named() -> None:
    loader = Loader(table(6, bad=4), P, global_batch_size=2, train=False)
    batches = loader.epoch(0)
    assert [next(batches).index.tolist(), next(batches).index.tolist()] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match=r"4\.png"):
        next(batches)
    assert alive() == 0


def test_dropping_the_iterator_ends_its_thread() -> None:
    batches = Loader(table(20), P, global_batch_size=2).epoch(0)
    assert alive() == 0
    next(batches)
    assert alive() == 1
    del batches
    gc.collect()
    assert alive() == 0


def test_waiting_is_measured_and_hidden_by_prefetching() -> None:
    def slow() -> Iterator[int]:
        for item in range(3):
            time.sleep(0.05)
            yield item

    waits: list[float] = []
    assert list(timed(prefetch(slow()), waits.append)) == [0, 1, 2]
    assert sum(waits) > 0.1
    assert len(waits) == 4
    waits.clear()
    for _ in timed(prefetch(slow()), waits.append):
        time.sleep(0.15)
    assert sum(waits[1:]) < 0.1


def test_timing_ends_the_thread_of_an_iterator_that_is_dropped() -> None:
    batches = timed(Loader(table(20), P, global_batch_size=2).epoch(0), lambda seconds: None)
    next(batches)
    assert alive() == 1
    del batches
    gc.collect()
    assert alive() == 0


def test_a_batch_moves_as_a_whole() -> None:
    (batch,) = Loader(table(2), P, global_batch_size=2).epoch(0)
    moved = batch.to("meta")
    tensors = (moved.images, moved.labels, moved.weight, moved.index)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch_size": 4, "num_workers": 3}, "multiple"),
        ({"global_batch_size": 0}, "batch size is 0"),
        ({"global_batch_size": 4, "num_workers": 2, "worker": 2}, "worker is 2 of 2"),
        ({"global_batch_size": 4, "seed": -1}, "seed is -1"),
        ({"global_batch_size": 4, "recipe": "cutmix"}, "cutmix"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loader(table(4), P, **options)  # type: ignore[arg-type]


def test_bad_tables_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        Loader(table(0), P, global_batch_size=4)
    with pytest.raises(DataError, match="columns"):
        Loader(table(4).select(["label"]), P, global_batch_size=4)
