"""Files by relative name, whether they lie in a folder, in archives or in both."""

import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from utuning.data.faults import fault, shorten
from utuning.data.names import inside
from utuning.data.tars import TarStore
from utuning.data.zips import ZipStore

_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")


class Store(Protocol):
    """Where files lie."""

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """Read a file that is there."""


class FolderStore:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        """Take the folder as it is; nothing is listed."""
        self._root = root

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self._root / name).is_file()

    def read(self, name: str) -> bytes:
        """Read a file."""
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise fault(
                f"The file {str(self._root / name)!r} cannot be read ({error.strerror})",
                "files that may be read",
                "restore the file or its permissions",
            ) from error


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Files of one or more stores; the first that has a name wins. `top` is put before every name."""

    given: str
    stores: Sequence[Store]
    top: str = ""

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file; a name that leaves the tree is refused."""
        full = self._full(name)
        return any(full in store for store in self.stores)

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            DataError: a file that is missing or unreadable, or a name that leaves the tree.
        """
        full = self._full(name)
        for store in self.stores:
            if full in store:
                return store.read(full)
        raise fault(f"{self.given!r} has no file {full!r}", "complete copies of the official files", "fetch it again")

    def text(self, name: str) -> str:
        """Read a UTF-8 text file."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise fault(f"{name!r} of {self.given!r} is no text", "UTF-8 text", "fetch the original again") from error

    def at(self, anchors: Sequence[str], *tops: str) -> "Tree":
        """Return the part below the first of `tops`, or the whole, that holds all `anchors`."""
        for top in ("", *(f"{top}/" for top in tops)):
            part = replace(self, top=self.top + top)
            if all(anchor in part for anchor in anchors):
                return part
        raise fault(
            f"{self.given!r} holds no {' and '.join(anchors)}"
            + (f", also not below {shorten(list(tops))}" if tops else ""),
            "the official archives, or folders with what is in them",
            "see `utuning prepare --help` for what this data set must look like",
        )

    def _full(self, name: str) -> str:
        return inside(self.top + name, f"{self.given!r}")


@contextmanager
def open_tree(path: Path, archives: Mapping[str, str], work: Path) -> Iterator[Tree]:
    """Open an archive, or a folder with loose files, known archives, or both.

    Args:
        path: an archive (tar, also compressed, or zip), or a folder.
        archives: names without suffix of archives to look for in a folder, and one file or folder that each holds;
            an archive beside what it holds is left alone.
        work: a folder for unpacked archives.
    """
    with ExitStack() as stack:
        stores: list[Store] = []
        for file in _found(path, archives):
            store = _open(file, work)
            stack.callback(store.close)
            stores.append(store)
        yield Tree(given=str(path), stores=[FolderStore(path), *stores] if path.is_dir() else stores)


def _found(path: Path, archives: Mapping[str, str]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise fault(f"{str(path)!r} does not exist", "an archive or a folder", "check the path")
    wanted = [stem for stem, holds in archives.items() if not (path / holds).exists()]
    files = [path / f"{stem}{suffix}" for stem in wanted for suffix in _SUFFIXES]
    return [file for file in files if file.is_file()]


def _open(file: Path, work: Path) -> TarStore | ZipStore:
    try:
        # A tar that ends with a zip file looks like a zip archive too, but not the other way round.
        if tarfile.is_tarfile(file):
            return TarStore(file, work)
        if zipfile.is_zipfile(file):
            return ZipStore(file)
    except OSError as error:
        raise fault(f"{str(file)!r} cannot be read ({error})", "files that may be read", "check the path") from error
    raise fault(
        f"{str(file)!r} is no archive, or a damaged one",
        "tar archives (plain, gzip, bzip2 or xz) and zip archives",
        "give the official archive or the folder that it was extracted to",
    )
