"""Splits that are too large for memory: each image is read from its shard when it is asked for."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import fs

from utuning.data.faults import fault
from utuning.data.info import DatasetInfo, unreachable
from utuning.data.opening import open_dataset, read_split, shards_of
from utuning.data.shard_index import shard_index
from utuning.data.space import require_space
from utuning.errors import DataError

IN_MEMORY_BYTES = 4 << 30
"""Shards of a split that are larger than this together stay where they are."""


class StoredRows:
    """Rows whose images stay in Parquet shards on this machine; memory holds 32 bytes for each.

    A row is read by its place in the file, so that any order of rows costs the same.
    """

    def __init__(self, files: Sequence[Path], cache: Path) -> None:
        """Find the places of all images, or read them from `cache`, where they were kept."""
        indices = [shard_index(file, cache) for file in files]
        self._files = list(files)
        self._shard = np.repeat(np.arange(len(files)), [index.shape[1] for index in indices])
        self._offset, self._length, self.labels = np.concatenate(indices, axis=1)

    def image(self, row: int) -> tuple[bytes, str]:
        """The encoded bytes of a row, and where it stands."""
        file = self._files[self._shard[row]]
        # Opened for each image: it costs little beside decoding, and there may be more shards than open files.
        with file.open("rb", buffering=0) as stream:
            stream.seek(self._offset[row])
            return stream.read(self._length[row]), f"row {row} in {file.name}"


@dataclass(frozen=True, kw_only=True)
class SplitRef:
    """The name of a large split, for those that can reach its place."""

    place: str
    split: str
    fingerprint: str

    def open(self, cache: Path) -> StoredRows:
        """Open the split; shards of an object store are copied to `cache` first.

        Raises:
            DataError: a place that cannot be reached from here, or holds another data set; too little space.
        """
        try:
            info = open_dataset(self.place)
        except DataError as error:
            raise fault(
                f"The data set is so large that every machine reads it itself, and this one cannot ({error})",
                "folders that all machines share, or object stores",
                "copy it to such a place and name that in dataset.path",
            ) from error
        if info.fingerprint != self.fingerprint:
            raise fault(
                f"The data set at {self.place!r} is another one here",
                f"the one with fingerprint {self.fingerprint[:16]}…",
                "copy the same data set to every machine",
            )
        return stored_rows(info, self.split, cache)


def shared_split(info: DatasetInfo, split: str) -> pa.Table | SplitRef:
    """Give what others need to read a split: the split itself where it is small, else its name."""
    sizes = info.path.files()
    if sum(sizes[file] for file in shards_of(info, split)) <= IN_MEMORY_BYTES:
        return read_split(info, split)
    return SplitRef(place=info.path.uri, split=split, fingerprint=info.fingerprint)


def opened(split: pa.Table | SplitRef, cache: Path) -> pa.Table | StoredRows:
    """Give what a loader takes."""
    return split.open(cache) if isinstance(split, SplitRef) else split


def stored_rows(info: DatasetInfo, split: str, cache: Path) -> StoredRows:
    """Open a split without reading its images into memory.

    Args:
        info: the data set.
        split: its split.
        cache: a folder of this machine for what is found out once, and for copies of an object store's shards.
    """
    names, home = shards_of(info, split), cache / info.fingerprint[:16]
    if info.path.local is not None:
        return StoredRows([info.path.local / name for name in names], home)
    return StoredRows(_copied(info, names, home), home)


def _copied(info: DatasetInfo, names: Sequence[str], home: Path) -> list[Path]:
    sizes, copies = info.path.files(), [home / name for name in names]
    missing = [
        (name, copy)
        for name, copy in zip(names, copies, strict=True)
        if not copy.exists() or copy.stat().st_size != sizes[name]
    ]
    require_space(home, sum(sizes[name] for name, _ in missing))
    for name, copy in missing:
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = copy.with_name(f".{uuid.uuid4().hex}.partial")
        try:
            fs.copy_files(
                info.path.file(name),
                str(partial),
                source_filesystem=info.path.filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )
            partial.replace(copy)
        except OSError as error:
            raise unreachable(info.path, error) from error
        finally:
            partial.unlink(missing_ok=True)
    return copies
