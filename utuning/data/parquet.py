"""Parquet shards in the layout that the Hugging Face `datasets` library reads for images."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_ROWS = 256
_GROUP_BYTES = 64 << 20
# Arrow reads an image column back whole per file, and one chunk of it ends at 2 GiB.
_SHARD_BYTES = 1 << 30


def image_schema(class_names: Sequence[str]) -> pa.Schema:
    """Return the columns, with the features that tell `datasets` their meaning."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


class SplitWriter:
    """Writes the rows of one split, starting a new shard whenever one is full."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, rows_per_shard: int) -> None:
        """Prepare to write; no file exists before the first row."""
        self._folder, self._split, self._schema = folder, split, schema
        self._rows_per_shard = rows_per_shard
        self._images: list[dict[str, bytes | str]] = []
        self._labels: list[int] = []
        self._group_bytes = self._shard_rows = self._shard_bytes = 0
        self._file: pq.ParquetWriter | None = None
        self._parts: list[Path] = []
        self.count = 0

    def __enter__(self) -> "SplitWriter":
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the shards, or after an error only let go of the open file."""
        if kind is None:
            self._finish()
        elif self._file is not None:
            # The footer cannot be written either when the disk is full.
            with contextlib.suppress(Exception):
                self._file.close()

    def add(self, path: str, label: int, data: bytes) -> None:
        """Append one row."""
        self._images.append({"bytes": data, "path": path})
        self._labels.append(label)
        self._group_bytes += len(data)
        self.count += 1
        full = self._shard_rows + len(self._labels) >= self._rows_per_shard
        if full or len(self._labels) >= _GROUP_ROWS or self._group_bytes >= _GROUP_BYTES:
            self._flush()
        if full or self._shard_bytes >= _SHARD_BYTES:
            self._close_shard()

    def _flush(self) -> None:
        if not self._labels:
            return
        if self._file is None:
            self._parts.append(self._folder / f"{self._split}-{len(self._parts):05d}.parquet")
            # Encoded images do not compress further and never repeat.
            self._file = pq.ParquetWriter(self._parts[-1], self._schema, compression="none", use_dictionary=False)
        columns = {"image": self._images, "label": self._labels}
        self._file.write_table(pa.Table.from_pydict(columns, schema=self._schema))
        self._shard_rows += len(self._labels)
        self._shard_bytes += self._group_bytes
        self._images, self._labels, self._group_bytes = [], [], 0

    def _close_shard(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
        self._shard_rows = self._shard_bytes = 0

    def _finish(self) -> None:
        self._flush()
        self._close_shard()
        for part in self._parts:
            part.rename(part.with_name(f"{part.stem}-of-{len(self._parts):05d}.parquet"))
