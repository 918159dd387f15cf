"""What a labelled image is before it becomes part of a data set."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from utuning.data.faults import fault

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A labelled image with its encoded bytes in memory."""

    path: str
    label: str
    split: str
    data: bytes

    @property
    def size(self) -> int:
        """Count the encoded bytes."""
        return len(self.data)

    @property
    def digest(self) -> str:
        """Hash the encoded bytes."""
        return sha256(self.data)


@dataclass(frozen=True, kw_only=True)
class ImageRef:
    """A labelled image whose bytes stay in its file until `data` is asked for."""

    path: str
    label: str
    split: str
    file: Path

    @property
    def data(self) -> bytes:
        """Read the encoded bytes from the file."""
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise fault(
                f"The image {str(self.file)!r} cannot be read ({error.strerror})",
                "files that exist and may be read",
                "restore the file or take it out of the folder or list",
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A labelled image whose bytes stay in an archive or a table until `data` is asked for."""

    path: str
    label: str
    split: str
    read: Callable[[], bytes]

    @property
    def data(self) -> bytes:
        """Read the encoded bytes."""
        return self.read()


Source = Example | ImageRef | Packed


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """An image that was read once and found good: what is known of it, and where to read it again.

    `digest` and `size` are of the bytes that are stored, `original` is the digest of those that came.
    """

    path: str
    label: str
    split: str
    digest: str
    size: int
    original: str
    source: Source

    @property
    def data(self) -> bytes:
        """Read the encoded bytes again.

        Raises:
            DataError: bytes that are no longer those that were checked.
        """
        data = self.source.data
        if sha256(data) != self.digest:
            raise fault(
                f"The image {self.path!r} changed while it was prepared",
                "sources that nobody writes to meanwhile",
                "prepare the data set again",
            )
        return data


class Row(Protocol):
    """An image that can be stored."""

    @property
    def path(self) -> str:
        """Where it came from."""

    @property
    def label(self) -> str:
        """Name the class."""

    @property
    def split(self) -> str:
        """Name the split."""

    @property
    def size(self) -> int:
        """Count the encoded bytes."""

    @property
    def digest(self) -> str:
        """Hash the encoded bytes: SHA-256, in hex."""

    @property
    def data(self) -> bytes:
        """Read the encoded bytes."""


def sha256(data: bytes) -> str:
    """Hash bytes to hex digits."""
    return hashlib.sha256(data).hexdigest()
