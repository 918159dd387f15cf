"""What a labelled image is before it becomes part of a data set."""

from dataclasses import dataclass
from pathlib import Path

from utuning.data.faults import fault

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A labelled image with its encoded bytes in memory."""

    path: str
    label: str
    split: str
    data: bytes


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


Source = Example | ImageRef
