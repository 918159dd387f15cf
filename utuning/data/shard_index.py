"""Where in a shard's file each image lies, so that one can be read without the others of its group."""

import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from utuning.data.faults import fault
from utuning.errors import DataError

_IMAGE, _LABEL = "image.bytes", "label"


def shard_index(file: Path, cache: Path) -> np.ndarray:
    """Give offset, length and label of each row, int64 of shape (3, N); found once and kept in the folder `cache`.

    Raises:
        DataError: a shard that is damaged, or whose images are not stored plainly.
    """
    status = file.stat()
    kept = cache / f"{file.stem}-{status.st_size}-{status.st_mtime_ns}.npy"
    if kept.exists():
        found: np.ndarray = np.load(kept)
        return found
    try:
        found = _found(file)
    except (OSError, pa.ArrowException) as error:
        raise damaged_shard(str(file), error) from error
    cache.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".{uuid.uuid4().hex}.npy")
    np.save(partial, found)
    os.replace(partial, kept)
    return found


def damaged_shard(file: str, error: Exception) -> DataError:
    """Build the error for a shard that cannot be read."""
    return fault(
        f"The shard {file!r} is damaged ({error})",
        "shards as preparing wrote them",
        "copy it again or prepare the data set again with overwrite",
    )


def _found(file: Path) -> np.ndarray:
    parts = [np.zeros((3, 0), dtype=np.int64)]
    with pq.ParquetFile(file) as parquet, file.open("rb") as raw:
        for group in range(parquet.num_row_groups):
            facts = parquet.metadata.row_group(group)
            (chunk,) = (c for c in map(facts.column, range(facts.num_columns)) if c.path_in_schema == _IMAGE)
            rows = parquet.read_row_group(group, columns=[_IMAGE, _LABEL])
            images = [value for part in rows["image"].chunks for value in part.field("bytes").to_pylist()]
            raw.seek(chunk.data_page_offset)
            stored = raw.read(chunk.total_compressed_size)
            offsets = [chunk.data_page_offset + at for at in _places(images, stored, file)]
            parts.append(np.array([offsets, [len(image) for image in images], rows["label"].to_numpy()]))
    return np.concatenate(parts, axis=1)


def _places(images: Iterable[bytes], stored: bytes, file: Path) -> Iterator[int]:
    # Plain values stand in their order, each behind its length in four bytes; headers of pages stand between some.
    at = 0
    for image in images:
        entry = len(image).to_bytes(4, "little") + image
        if not stored.startswith(entry, at):
            at = stored.find(entry, at)
        if at < 0:
            raise fault(
                f"The shard {str(file)!r} stores images in another way than plainly",
                "shards as preparing wrote them",
                "prepare the data set again with overwrite",
            )
        yield at + 4
        at += len(entry)
