"""Reading tar archives in any order, without extracting them."""

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utuning.data.entries import entry_name
from utuning.data.faults import fault
from utuning.data.space import free_bytes, human_bytes
from utuning.errors import DataError

_Unpack = Callable[[Path], Any]
_COMPRESSIONS: dict[bytes, _Unpack] = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile}
_BROKEN = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, ValueError)


class TarStore:
    """The files of a tar archive: where each one lies, found in one pass over the headers."""

    def __init__(self, file: Path, work: Path) -> None:
        """Index the archive; a compressed one is unpacked to a plain tar in `work` first, as it cannot be entered.

        Raises:
            DataError: an archive that is damaged, or has links, devices or names that leave it.
        """
        self.file = file
        plain = _plain(file, work)
        try:
            with tarfile.open(plain, "r:") as archive:
                entries = [(entry_name(file, member.name, plain=_is_plain(member)), member) for member in archive]
        except _BROKEN as error:
            raise _damaged(file, error) from error
        self._places = {name: (member.offset_data, member.size) for name, member in entries if not member.isdir()}
        self._descriptor = os.open(plain, os.O_RDONLY)

    def __contains__(self, name: str) -> bool:
        """Whether the archive has this file."""
        return name in self._places

    def read(self, name: str) -> bytes:
        """Read one file; any number of threads may at once."""
        offset, size = self._places[name]
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise _damaged(self.file, EOFError(f"{name!r} is cut off"))
        return data

    def close(self) -> None:
        """Let go of the archive."""
        os.close(self._descriptor)


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isdir() or (member.isreg() and not member.issparse())


def _plain(file: Path, work: Path) -> Path:
    with file.open("rb") as raw:
        start = raw.read(6)
    unpack = next((unpack for magic, unpack in _COMPRESSIONS.items() if start.startswith(magic)), None)
    if unpack is None:
        return file
    status = file.stat()
    plain = work / f"{file.name}-{status.st_size}-{status.st_mtime_ns}.tar"
    if not plain.exists():
        _unpack(file, unpack, plain)
    return plain


def _unpack(file: Path, unpack: _Unpack, plain: Path) -> None:
    partial = plain.with_suffix(".partial")
    try:
        with unpack(file) as packed, partial.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except _BROKEN as error:
        partial.unlink(missing_ok=True)
        if getattr(error, "errno", None):
            raise _no_room(file, plain, error) from error
        raise _damaged(file, error) from error
    # Only a whole one ever has this name, so that a later call may use it.
    partial.rename(plain)


def _no_room(file: Path, plain: Path, error: BaseException) -> DataError:
    return fault(
        f"Unpacking {str(file)!r} beside the target failed ({error}); the disk has "
        f"{human_bytes(free_bytes(plain.parent))} free",
        "a disk with room for the unpacked archive",
        "free some space, name another folder with --work, or extract the archive yourself and give the folder",
    )


def _damaged(file: Path, error: BaseException) -> DataError:
    return fault(
        f"The archive {str(file)!r} is damaged ({type(error).__name__}: {error})",
        "complete tar archives, plain or compressed with gzip, bzip2 or xz",
        "fetch it again and compare its size with the official one",
    )
