"""Batches for data-parallel workers: the same global batches for any number of workers."""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from utuning.batch import Batch
from utuning.data.cache import ImageCache
from utuning.data.crops import check_recipe
from utuning.data.order import check_sharding, epoch_order, worker_slices
from utuning.data.prefetch import prefetch
from utuning.data.rows import Rows, as_rows
from utuning.data.transforms import Preprocessing, decode_resize, eval_crop, sample_rng, train_crop

IMAGE_CACHE_BYTES = 1 << 30
"""What a loader keeps of decoded images at most, unless told otherwise."""


class States(Protocol):
    """Kept states of a frozen network, by image and view: see `utuning.prefix`."""

    def read(self, rows_R: Tensor, view: int) -> Mapping[int, Tensor] | None:
        """The states of these images; None if any is missing."""

    def write(self, rows_R: Tensor, states: Mapping[int, Tensor], view: int) -> None:
        """Keep states of these images."""

    depths: Collection[int]
    images: bool
    """Whether the images are needed even where all states are there."""


class Loader:
    """Loads one worker's contiguous slice of every global batch of a split.

    What an epoch holds, the random crops included, depends on the seed and the epoch only,
    not on the number of workers. With `views`, an image has so many random crops: an epoch's is
    that of the epoch's number modulo `views`.
    """

    def __init__(
        self,
        table: pa.Table | Rows,
        preprocessing: Preprocessing,
        *,
        global_batch_size: int,
        worker: int = 0,
        num_workers: int = 1,
        seed: int = 0,
        recipe: str = "vpt",
        train: bool = True,
        cache_bytes: int = IMAGE_CACHE_BYTES,
        threads: int = 1,
        views: int | None = None,
    ) -> None:
        """Take the rows of a split; `train=False` keeps their order and crops the centre."""
        check_recipe(recipe)
        self._rows = as_rows(table)
        self._labels = self._rows.labels
        check_sharding(len(self._labels), global_batch_size, worker, num_workers, seed)
        self._preprocessing = preprocessing
        self._slices = (global_batch_size, worker, num_workers)
        self._seed, self._train = seed, train
        self._recipe = recipe
        self._cache = ImageCache(cache_bytes)
        self._threads = max(1, threads)
        self._views = views if train else 1
        self.num_examples = len(self._labels)
        self.num_classes_seen = len(np.unique(self._labels))

    def __len__(self) -> int:
        """Return the number of batches of an epoch, equal for all workers."""
        return -(-self.num_examples // self._slices[0])

    def epoch(self, epoch: int, states: States | None = None) -> Iterator[Batch]:
        """Iterate over the batches of an epoch, computed ahead in a background thread."""
        return prefetch(self._batches(epoch, states))

    def _batches(self, epoch: int, states: States | None) -> Iterator[Batch]:
        order = epoch_order(self.num_examples, self._seed, epoch, shuffle=self._train)
        view = epoch if self._views is None else epoch % self._views
        with ThreadPoolExecutor(self._threads) as pool:
            for rows in worker_slices(order, *self._slices):
                yield self._batch(rows, view, states, pool)

    def _batch(self, rows: np.ndarray, view: int, states: States | None, pool: ThreadPoolExecutor) -> Batch:
        real, index = torch.from_numpy(rows[rows >= 0]), torch.from_numpy(rows)
        labels = torch.zeros(len(rows), dtype=torch.int64)
        labels[: len(real)] = torch.from_numpy(self._labels[real.numpy()])
        plain = Batch(images=None, labels=labels, weight=(index >= 0).float(), index=index)
        known = None if states is None else states.read(real, view)
        if states is not None and known is not None:
            images = self._pixels(rows, view, pool) if states.images else None
            return replace(plain, images=images, states={depth: _pad(x, len(rows)) for depth, x in known.items()})
        images = self._pixels(rows, view, pool)
        if states is None:
            return replace(plain, images=images)
        keep = partial(_keep, states, real, view)
        return replace(plain, images=images, wanted=states.depths, remember=keep)

    def _pixels(self, rows: np.ndarray, view: int, pool: ThreadPoolExecutor) -> Tensor:
        size, real = self._preprocessing.img_size, rows[rows >= 0].tolist()
        images = torch.empty((len(rows), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        images[len(real) :] = 0

        def fill(part: range) -> None:
            for at in part:
                images[at] = self._sample(real[at], view)

        # One task a thread: a small image is decoded about as soon as it is handed over.
        for _ in pool.map(fill, (range(first, len(real), self._threads) for first in range(self._threads))):
            pass
        return images

    def _sample(self, row: int, view: int) -> Tensor:
        image = self._cache.get(row, self._decode)
        if not self._train:
            return eval_crop(image, self._preprocessing)
        rng = sample_rng(self._seed, view, row)
        return train_crop(image, self._preprocessing, self._recipe, rng)

    def _decode(self, row: int) -> Tensor:
        data, path = self._rows.image(row)
        return decode_resize(data, self._preprocessing, path)


def _pad(state: Tensor, num_rows: int) -> Tensor:
    """Padding's rows are zeros, as its images are."""
    missing = num_rows - len(state)
    return torch.cat([state, state.new_zeros(missing, *state.shape[1:])]) if missing else state


def _keep(states: States, rows: Tensor, view: int, found: Mapping[int, Tensor]) -> None:
    """Padding stands last, and is not kept."""
    states.write(rows, {depth: state[: len(rows)].cpu() for depth, state in found.items()}, view)
