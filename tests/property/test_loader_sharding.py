"""Any number of workers sees the same global batches, each sample once."""

import io
from functools import cache

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utuning.batch import Batch
from utuning.data.loader import Loader
from utuning.data.order import epoch_order, worker_slices
from utuning.data.parquet import image_schema
from utuning.data.transforms import Preprocessing

P = Preprocessing(img_size=4, resize=6)


@cache
def table(count: int) -> pa.Table:
    images = []
    for n in range(count):
        values = np.random.default_rng(n).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": f"{n}.png"})
    rows = {"image": images, "label": [n % 2 for n in range(count)]}
    return pa.Table.from_pydict(rows, schema=image_schema(["a", "b"]))


def joined(shares: tuple[Batch, ...]) -> list[torch.Tensor]:
    return [torch.cat([getattr(share, name) for share in shares]) for name in ("images", "labels", "weight", "index")]


@given(
    count=st.integers(1, 200), per_worker=st.integers(1, 20), workers=st.integers(1, 6),
    seed=st.integers(0, 2**40), epoch=st.integers(0, 50), shuffle=st.booleans(),
)  # fmt: skip
def test_slices_join_to_the_order_and_cover_every_sample_once(
    count: int, per_worker: int, workers: int, seed: int, epoch: int, shuffle: bool
) -> None:
    order = epoch_order(count, seed, epoch, shuffle=shuffle)
    size = per_worker * workers
    shares = [list(worker_slices(order, size, worker, workers)) for worker in range(workers)]
    assert {len(share) for share in shares} == {-(-count // size)}
    assert {len(rows) for share in shares for rows in share} == {per_worker}
    rows = np.concatenate([np.concatenate(parts) for parts in zip(*shares, strict=True)])
    assert np.array_equal(rows[:count], order)
    assert (rows[count:] == -1).all()
    assert sorted(order.tolist()) == list(range(count))


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 15), sixth=st.integers(1, 2), seed=st.integers(0, 99),
    epoch=st.integers(0, 9), recipe=st.sampled_from(["vpt", "rrc", "none"]), train=st.booleans(),
)  # fmt: skip
def test_one_two_and_three_workers_load_equal_global_batches(
    count: int, sixth: int, seed: int, epoch: int, recipe: str, train: bool
) -> None:
    def epoch_of(workers: int) -> list[list[torch.Tensor]]:
        loaders = [
            Loader(
                table(count), P, global_batch_size=6 * sixth, worker=worker, num_workers=workers,
                seed=seed, recipe=recipe, train=train,
            )
            for worker in range(workers)
        ]  # fmt: skip
        return [joined(shares) for shares in zip(*(x.epoch(epoch) for x in loaders), strict=True)]

    single = epoch_of(1)
    seen = torch.cat([index for *_, index in single])
    assert sorted(seen[seen >= 0].tolist()) == list(range(count))
    for workers in (2, 3):
        for ours, theirs in zip(single, epoch_of(workers), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
