"""Reading zip archives without extracting them."""

import stat
import zipfile
import zlib
from pathlib import Path

from utuning.data.entries import entry_name
from utuning.data.faults import fault
from utuning.errors import DataError

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


class ZipStore:
    """The files of a zip archive."""

    def __init__(self, file: Path) -> None:
        """Read the table of contents.

        Raises:
            DataError: an archive that is damaged, or has links, devices or names that leave it.
        """
        self.file = file
        try:
            self._archive = zipfile.ZipFile(file)
        except _BROKEN as error:
            raise _damaged(file, error) from error
        self._entries = {
            entry_name(file, entry.filename, plain=_is_plain(entry)): entry
            for entry in self._archive.infolist()
            if not entry.is_dir()
        }

    def __contains__(self, name: str) -> bool:
        """Whether the archive has this file."""
        return name in self._entries

    def read(self, name: str) -> bytes:
        """Read one file; any number of threads may at once."""
        try:
            return self._archive.read(self._entries[name])
        except _BROKEN as error:
            raise _damaged(self.file, error) from error

    def close(self) -> None:
        """Let go of the archive."""
        self._archive.close()


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Systems without kinds of files leave the kind out."""
    return stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)


def _damaged(file: Path, error: BaseException) -> DataError:
    return fault(
        f"The archive {str(file)!r} is damaged or locked ({type(error).__name__}: {error})",
        "complete zip archives without a password",
        "fetch it again, or extract it yourself and give the folder",
    )
