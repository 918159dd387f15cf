"""The files of one entry of the prefix cache: their sizes, how they are made, and the locks on them."""

import errno
import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any

import torch

ROWS, CHECKS, FACTS, LOCK = "rows.bin", "checks.bin", "entry.json", "lock"


@dataclass(frozen=True)
class Layout:
    """The form of an entry: `num_rows` rows of `row_shape` values of `dtype`."""

    num_rows: int
    row_shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        """Raise `ValueError` for a layout without a single byte."""
        if self.num_rows < 1 or self.row_bytes < 1:
            raise ValueError(f"an entry needs at least one row of at least one value, not {self}")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        return {ROWS: self.num_rows * self.row_bytes, CHECKS: self.num_rows * 4}

    def create(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Make the files of an empty entry; raise `OSError` where they do not fit."""
        (folder / LOCK).touch()
        for name, size in self.sizes.items():
            _reserve(folder / name, size)
        (folder / FACTS).write_text(json.dumps({**self._facts(), "about": dict(about)}, default=str))

    def matches(self, folder: Path) -> bool:
        """Whether the folder holds a readable entry of this layout."""
        try:
            found = json.loads((folder / FACTS).read_text())
            same = {**found, **self._facts()} == found
            return same and all((folder / name).stat().st_size == size for name, size in self.sizes.items())
        except (OSError, ValueError, TypeError):
            return False

    def _facts(self) -> dict[str, Any]:
        return {"num_rows": self.num_rows, "row_shape": list(self.row_shape), "dtype": str(self.dtype)}


def lock_file(path: Path, how: int) -> BufferedWriter | None:
    """Open and lock a file until it is closed; None where another open file holds it. `how` is as for `flock`."""
    file = path.open("ab")
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        file.close()
        return None
    return file


def unlock(file: BufferedWriter) -> None:
    """Let go of a lock and close its file."""
    # Closing alone does not: a child that was forked meanwhile has the file open too.
    with file:
        fcntl.flock(file, fcntl.LOCK_UN)


def _reserve(path: Path, size: int) -> None:
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:
            # Neither macOS nor every file system can reserve blocks: there the file is sparse.
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            file.truncate(size)
