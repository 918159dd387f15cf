"""A folder that appears complete or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utuning.data.faults import fault
from utuning.data.space import free_bytes, human_bytes


@contextmanager
def writing_folder(to: Path, key: str | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of `to`; remove it on any error, which includes Ctrl-C.

    An `OSError` inside becomes a `DataError` that names the free space. The caller publishes
    the folder; one that is not published is removed. With a `key` the folder's name follows from it, and
    Ctrl-C leaves the folder, for a later call to go on with: the caller sees to it that there is one at a time.
    """
    partial = to.parent / f".{to.name}.partial-{key or uuid.uuid4().hex[:12]}"
    keep = False
    try:
        partial.mkdir(parents=True, exist_ok=key is not None)
        yield partial
    except OSError as error:
        raise fault(
            f"Writing {str(to)!r} failed ({error}); nothing of it was kept, and the disk has "
            f"{human_bytes(free_bytes(to))} free",
            "a writable folder on a disk with enough free space",
            "free some space, lift the file size limit or choose another folder",
        ) from error
    except BaseException as error:
        keep = key is not None and not isinstance(error, Exception)
        raise
    finally:
        if not keep:
            shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, to: Path) -> None:
    """Give the finished folder its name, replacing an older one."""
    if not to.exists():
        partial.rename(to)
        return
    old = partial.with_name(partial.name.replace(".partial-", ".old-"))
    to.rename(old)
    try:
        partial.rename(to)
    except BaseException:
        old.rename(to)
        raise
    shutil.rmtree(old, ignore_errors=True)
