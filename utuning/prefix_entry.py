"""One entry of the prefix cache: rows on disk, each with a check that tells a whole row from a torn one."""

import errno
import math
import mmap
import os
import zlib
from contextlib import ExitStack
from io import BufferedWriter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utuning.prefix_files import CHECKS, ROWS, Layout


class PrefixEntry:
    """Rows that several processes read and write at once; safe to use from several threads."""

    def __init__(self, folder: Path, layout: Layout, lock: BufferedWriter) -> None:
        """Open the files of an entry and keep `lock`, which says that it is in use, until it is closed."""
        self._layout = layout
        self._opened = ExitStack()
        self._opened.enter_context(lock)
        files = {name: (folder / name).open("r+b", buffering=0) for name in layout.sizes}
        self._files = {name: self._opened.enter_context(file) for name, file in files.items()}
        self._maps = {
            name: self._opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            for name, file in files.items()
        }

    @property
    def num_present(self) -> int:
        """Rows that were written; a damaged one counts too."""
        return int(np.count_nonzero(self._checks))

    def read(self, rows_B: Tensor) -> Tensor | None:
        """Return a copy of these rows, (B, *row_shape) in the stored dtype; None unless all are there and intact.

        Row numbers are int64, in any order, also repeated. Raises `IndexError` for a row out of range (also a
        negative one), `ValueError` after `close`.
        """
        rows = self._numbers(rows_B)
        checks = self._checks[rows]
        if not checks.all():
            return None
        # The check is of the copy: what a writer changes meanwhile can no longer reach it.
        copies = self._rows.take(rows, axis=0)
        if any(_check(copy) != check for copy, check in zip(copies, checks.tolist(), strict=True)):
            return None
        return torch.from_numpy(copies).flatten().view(self._layout.dtype).reshape(len(rows), *self._layout.row_shape)

    def write(self, rows_B: Tensor, values: Tensor) -> None:
        """Store those of the rows that are missing or damaged; `values` is (B, *row_shape) of any dtype and device.

        A full disk is no error: the rest of the rows stays missing. Raises `IndexError` for a row out of range,
        `ValueError` for values of another shape or after `close`.
        """
        rows = self._numbers(rows_B)
        if values.shape != (len(rows), *self._layout.row_shape):
            raise ValueError(f"{len(rows)} rows of {self._layout.row_shape} do not have the shape {values.shape}")
        flat = values.detach().to("cpu", self._layout.dtype).reshape(len(rows), math.prod(self._layout.row_shape))
        contents = flat.contiguous().view(torch.uint8).numpy()
        try:
            for row, content in zip(rows.tolist(), contents, strict=True):
                self._store(row, content)
        except OSError:
            return

    def close(self) -> None:
        """Let go of the files, so that the entry may be evicted; closing twice is fine."""
        self._opened.close()

    def __enter__(self) -> "PrefixEntry":
        """Return itself: `with cache.entry(...) as entry`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def _rows(self) -> NDArray[np.uint8]:
        return np.frombuffer(self._maps[ROWS], np.uint8).reshape(-1, self._layout.row_bytes)

    @property
    def _checks(self) -> NDArray[np.uint32]:
        return np.frombuffer(self._maps[CHECKS], np.uint32)

    def _numbers(self, rows_B: Tensor) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = rows_B.detach().to("cpu", torch.int64).numpy()
        if rows.size and not 0 <= rows.min() <= rows.max() < self._layout.num_rows:
            raise IndexError(f"rows {rows.min()} to {rows.max()} do not all lie in 0 to {self._layout.num_rows - 1}")
        return rows

    def _store(self, row: int, content: NDArray[np.uint8]) -> None:
        check = self._checks[row]
        if check and check == _check(self._rows[row]):
            return
        self._put(ROWS, row, content)
        self._put(CHECKS, row, np.array([_check(content)], np.uint32).view(np.uint8))

    def _put(self, name: str, row: int, content: NDArray[np.uint8]) -> None:
        # Not through the map: there a full disk kills the process, here it is an error.
        if os.pwrite(self._files[name].fileno(), content.data, row * content.nbytes) != content.nbytes:
            raise OSError(errno.ENOSPC, "only a part of a row was written")


def _check(content: NDArray[np.uint8]) -> int:
    return zlib.crc32(content.data) or 1
