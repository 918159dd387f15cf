"""Which samples a worker sees, and when."""

from collections.abc import Iterator

import numpy as np

from utuning.data.faults import fault


def check_sharding(num_examples: int, global_batch_size: int, worker: int, num_workers: int, seed: int) -> None:
    """Raise `DataError` for numbers that give no equal slices."""
    if num_examples < 1:
        raise fault("The split has no images", "splits with images", "prepare the data set again")
    if num_workers < 1 or not 0 <= worker < num_workers:
        raise fault(
            f"worker is {worker} of {num_workers}",
            "0 up to the number of workers minus 1",
            "correct the worker",
        )
    if global_batch_size < 1 or global_batch_size % num_workers:
        raise fault(
            f"The global batch size is {global_batch_size} for {num_workers} workers",
            "1 or more, and a multiple of the number of workers",
            "change the batch size or the number of workers",
        )
    if seed < 0:
        raise fault(f"The seed is {seed}", "0 or more", "choose another seed")


def epoch_order(num_examples: int, seed: int, epoch: int, *, shuffle: bool) -> np.ndarray:
    """Return the rows in the order of an epoch."""
    if not shuffle:
        return np.arange(num_examples)
    return np.random.default_rng([seed, epoch, 0, 2]).permutation(num_examples)


def worker_slices(order: np.ndarray, global_batch_size: int, worker: int, num_workers: int) -> Iterator[np.ndarray]:
    """Yield a worker's contiguous part of each global batch, the last one padded with -1."""
    missing = -len(order) % global_batch_size
    padded = np.concatenate([order, np.full(missing, -1, dtype=order.dtype)])
    for rows in padded.reshape(-1, num_workers, global_batch_size // num_workers):
        yield rows[worker].copy()
