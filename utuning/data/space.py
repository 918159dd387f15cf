"""Free disk space: asking for it before writing, and naming it after a failure."""

import shutil
from pathlib import Path

from utuning.data.faults import fault


def human_bytes(count: int) -> str:
    """Write a number of bytes with a unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that holds `path` or would hold it."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_space(path: Path, num_bytes: int) -> None:
    """Raise `DataError` unless the disk below `path` has `num_bytes` free."""
    free = free_bytes(path)
    if free < num_bytes:
        raise fault(
            f"Writing {str(path)!r} needs about {human_bytes(num_bytes)}, but only {human_bytes(free)} are free",
            "a disk with enough free space",
            "free some space or choose a folder on another disk",
        )
