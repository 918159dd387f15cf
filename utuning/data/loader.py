"""Batches for data-parallel workers: the same global batches for any number of workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from utuning.data.cache import ImageCache
from utuning.data.crops import check_recipe
from utuning.data.faults import fault
from utuning.data.order import check_sharding, epoch_order, worker_slices
from utuning.data.prefetch import prefetch
from utuning.data.transforms import Preprocessing, decode_resize, sample_rng, train_crop

__all__ = ["Batch", "Loader"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One worker's share of a global batch; padding has weight 0 and index -1."""

    images: Tensor
    labels: Tensor
    weight: Tensor
    index: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to a device."""
        return Batch(
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            weight=self.weight.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
        )


class Loader:
    """Loads one worker's contiguous slice of every global batch of a split.

    What an epoch holds, the random crops included, depends on the seed and the epoch only,
    not on the number of workers. `input_wait_s` adds up the seconds spent waiting for input.
    """

    def __init__(
        self,
        table: pa.Table,
        preprocessing: Preprocessing,
        *,
        global_batch_size: int,
        worker: int = 0,
        num_workers: int = 1,
        seed: int = 0,
        recipe: str = "vpt",
        train: bool = True,
        cache_bytes: int = 1 << 30,
        threads: int = 1,
    ) -> None:
        """Take the rows of a split; `train=False` keeps their order and crops the centre."""
        check_recipe(recipe)
        check_sharding(table.num_rows, global_batch_size, worker, num_workers, seed)
        self._images = _column(table, "image")
        self._labels = _column(table, "label").to_numpy()
        self._preprocessing = preprocessing
        self._slices = (global_batch_size, worker, num_workers)
        self._seed, self._train = seed, train
        self._recipe = recipe if train else "none"
        self._cache = ImageCache(cache_bytes)
        self._threads = max(1, threads)
        self.num_examples: int = table.num_rows
        self.num_classes_seen = len(np.unique(self._labels))
        self.input_wait_s = 0.0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, equal for all workers."""
        return -(-self.num_examples // self._slices[0])

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, computed ahead in a background thread."""
        return prefetch(self._batches(epoch), on_wait=self._add_wait)

    def _add_wait(self, seconds: float) -> None:
        self.input_wait_s += seconds

    def _batches(self, epoch: int) -> Iterator[Batch]:
        order = epoch_order(self.num_examples, self._seed, epoch, shuffle=self._train)
        with ThreadPoolExecutor(self._threads) as pool:
            for rows in worker_slices(order, *self._slices):
                yield self._batch(rows, epoch, pool)

    def _batch(self, rows: np.ndarray, epoch: int, pool: ThreadPoolExecutor) -> Batch:
        real = rows[rows >= 0]
        size = self._preprocessing.img_size
        images = torch.zeros((len(rows), 3, size, size), dtype=torch.uint8)
        labels = torch.zeros(len(rows), dtype=torch.int64)
        for at, image in enumerate(pool.map(lambda row: self._sample(row, epoch), real.tolist())):
            images[at] = image
        labels[: len(real)] = torch.from_numpy(self._labels[real])
        index = torch.from_numpy(rows)
        return Batch(images=images, labels=labels, weight=(index >= 0).float(), index=index)

    def _sample(self, row: int, epoch: int) -> Tensor:
        image = self._cache.get(row, self._decode)
        rng = sample_rng(self._seed, epoch, row)
        return train_crop(image, self._preprocessing, self._recipe, rng)

    def _decode(self, row: int) -> Tensor:
        image = self._images[row].as_py()
        return decode_resize(image["bytes"], self._preprocessing, image["path"])


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise fault(
            f"The table has the columns {table.column_names}",
            "tables with image and label",
            "read the split of a prepared data set",
        )
    return table.column(name)
