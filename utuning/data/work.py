"""A folder for what a preparation must not lose when it dies: unpacked archives, and which images were checked."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utuning.data.faults import fault
from utuning.data.places import Place
from utuning.errors import DataError, StoreError


def work_folder(to: Place, what: str, work: Path | None = None) -> Path:
    """Name the folder of a target: below `work`, else beside a local target, else in the user's cache."""
    if work is None and to.local is not None:
        return to.local.parent / f".{to.name}.{what}"
    parent = work or Path("~/.cache/utuning/preparing").expanduser()
    return parent / f"{to.name}-{hashlib.sha256(to.uri.encode()).hexdigest()[:12]}.{what}"


@contextmanager
def working(folder: Path) -> Iterator[Path]:
    """Make and lock the folder, waiting for another process that has it.

    It is removed at the end and after an error that a later call would run into again. It stays when the process is
    stopped or dies, for a later call to go on.
    """
    try:
        lock = _lock(folder)
    except OSError as error:
        raise fault(
            f"The folder {str(folder)!r} cannot be made ({error})", "a writable place", "choose another"
        ) from error
    keep = False
    try:
        yield folder
    except BaseException as error:
        keep = isinstance(error, StoreError) or not isinstance(error, DataError)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Who had it before may have removed the folder, and this lock with it.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(lock)):
            return lock
        os.close(lock)
