"""Parquet shards in the layout that the Hugging Face `datasets` library reads for images."""

import json
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from utuning.data.examples import SPLITS, Row
from utuning.data.places import Place

_GROUP_ROWS = 256
_GROUP_BYTES = 64 << 20
# Arrow reads an image column back whole per file, and one chunk of it ends at 2 GiB.
_SHARD_BYTES = 1 << 30
_KEY = b"utuning"


def image_schema(class_names: Sequence[str], key: str = "") -> pa.Schema:
    """Return the columns, with the features that tell `datasets` their meaning, and what the shard is part of."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}}), _KEY: key},
    )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a split, and the rows that belong into it."""

    split: str
    number: int
    total: int
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """The file's name in the data set's folder."""
        return f"data/{self.split}-{self.number:05d}-of-{self.total:05d}.parquet"


def cut_shards(rows: Sequence[Row], rows_per_shard: int) -> list[Shard]:
    """Divide rows into shards, split by split, in their order."""
    shards = []
    for split in SPLITS:
        parts = list(_parts((row for row in rows if row.split == split), rows_per_shard, _SHARD_BYTES))
        shards += [Shard(split=split, number=at, total=len(parts), rows=part) for at, part in enumerate(parts)]
    return shards


def is_written(place: Place, shard: Shard, key: str) -> bool:
    """Whether a file is this very shard, and complete: a footer, which comes last, says so."""
    try:
        footer = pq.read_metadata(place.file(shard.name), filesystem=place.filesystem)
    except (OSError, pa.ArrowException):
        return False
    return (footer.metadata or {}).get(_KEY) == key.encode() and footer.num_rows == len(shard.rows)


def write_shard(place: Place, shard: Shard, class_names: Sequence[str], key: str) -> Generator[int]:
    """Write one shard, holding one group of rows at a time; yields the number of rows of each group written."""
    ids = {name: number for number, name in enumerate(class_names)}
    schema = image_schema(class_names, key)
    # Encoded images do not compress further and never repeat.
    options = {"compression": "none", "use_dictionary": False, "filesystem": place.filesystem}
    # Images that are shrunk are shrunk here, by all cores.
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        pq.ParquetWriter(place.file(shard.name), schema, **options) as file,
    ):
        for group in _parts(shard.rows, _GROUP_ROWS, _GROUP_BYTES):
            images = list(pool.map(lambda row: {"bytes": row.data, "path": row.path}, group))
            columns = {"image": images, "label": [ids[row.label] for row in group]}
            file.write_table(pa.Table.from_pydict(columns, schema=schema))
            yield len(group)


def _parts(rows: Iterable[Row], max_rows: int, max_bytes: int) -> Iterator[list[Row]]:
    part: list[Row] = []
    num_bytes = 0
    for row in rows:
        part.append(row)
        num_bytes += row.size
        if len(part) >= max_rows or num_bytes >= max_bytes:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part
