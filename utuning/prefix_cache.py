"""Activations of a frozen network kept on disk, for all processes of one machine, within a number of bytes."""

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from utuning.configs import digest
from utuning.data.atomic import publish, writing_folder
from utuning.data.space import free_bytes
from utuning.errors import DataError
from utuning.prefix_entry import PrefixEntry
from utuning.prefix_files import CHECKS, LOCK, ROWS, Layout, lock_file, unlock

DISK_RESERVE = 2**30
"""Bytes of the disk that are left free for everything else."""


def prefix_key(**facts: Any) -> str:
    """Name an entry by what its rows depend on: 32 hex digits, whatever the order of the facts.

    Raises `TypeError` for a fact that JSON does not know.
    """
    return digest(facts, num_digits=32)


class PrefixCache:
    """Entries below one folder; the least recently opened ones that nobody uses make room for new ones."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        """Name the folder, which is made with the first entry, and the most bytes that it may hold."""
        self._folder = folder
        self._budget = budget_bytes

    def entry(
        self, key: str, *, num_rows: int, row_shape: Sequence[int], dtype: torch.dtype, about: Mapping[str, Any]
    ) -> PrefixEntry | None:
        """Open the entry, or make it without rows: of another layout or damaged, it is replaced.

        `key` is one word, such as `prefix_key` makes; `about` is written beside the rows for people to read. Returns
        None where the budget or the disk has no room for the entry, where the folder cannot be written, and where an
        entry that must be replaced is in use. Raises `ValueError` for a bad key or an entry without bytes.
        """
        layout = Layout(num_rows, tuple(row_shape), dtype)
        if not re.fullmatch(r"\w[\w-]*", key):
            raise ValueError(f"a key is one word, not {key!r}")
        try:
            with self._alone():
                return self._open_or_make(self._folder / key, layout, about)
        except (OSError, DataError):
            return None

    def bytes_held(self) -> int:
        """Bytes of all entries at full size, whether or not their rows are there."""
        return sum(self._entries().values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                unlock(file)

    def _open_or_make(self, path: Path, layout: Layout, about: Mapping[str, Any]) -> PrefixEntry | None:
        if path.exists() and not layout.matches(path):
            if _in_use(path):
                return None
            _remove(path)
        if not path.exists():
            if not self._make_room(sum(layout.sizes.values())):
                return None
            with writing_folder(path) as partial:
                layout.create(partial, about)
                publish(partial, path)
        return _open(path, layout)

    def _make_room(self, num_bytes: int) -> bool:
        self._sweep()
        over = self.bytes_held() + num_bytes - self._budget
        freed, chosen = 0, []
        for path, size in sorted(self._entries().items(), key=_last_opened):
            if freed < over and not _in_use(path):
                freed += size
                chosen.append(path)
        if freed < over or free_bytes(self._folder) + freed < num_bytes + DISK_RESERVE:
            return False
        for path in chosen:
            _remove(path)
        return True

    def _sweep(self) -> None:
        # Whoever makes or removes an entry holds the folder's lock, so what is half made now belongs to the dead.
        for partial in self._folder.glob(".*.partial-*"):
            shutil.rmtree(partial, ignore_errors=True)

    def _entries(self) -> dict[Path, int]:
        sizes = {lock.parent: _size(lock.parent) for lock in self._folder.glob(f"[!.]*/{LOCK}")}
        return {path: size for path, size in sizes.items() if size}


def _open(path: Path, layout: Layout) -> PrefixEntry | None:
    lock = lock_file(path / LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB)
    if lock is None:
        return None
    now = time.time_ns()  # the kernel's own stamp is too coarse to order two openings
    os.utime(path / LOCK, ns=(now, now))
    return PrefixEntry(path, layout, lock)


def _in_use(path: Path) -> bool:
    lock = lock_file(path / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is not None:
        unlock(lock)
    return lock is None


def _remove(path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
    path.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def _size(path: Path) -> int:
    total = 0
    for name in (ROWS, CHECKS):
        with suppress(OSError):
            total += (path / name).stat().st_size
    return total


def _last_opened(entry: tuple[Path, int]) -> int:
    return (entry[0] / LOCK).stat().st_mtime_ns
