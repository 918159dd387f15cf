"""Opening a stored data set and reading its splits."""

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from utuning.data.faults import fault
from utuning.data.info import DatasetInfo, read_info, unreachable
from utuning.data.places import Place, Target
from utuning.data.shard_index import damaged_shard
from utuning.errors import DataError

_SHARD = re.compile(r"data/(\w+)-(\d{5})-of-(\d{5})\.parquet$")


def open_dataset(folder: Target) -> DatasetInfo:
    """Read the description of a stored data set and check that its shards are complete.

    Args:
        folder: a local path, or the URI of a folder in an object store.
    """
    place = Place.of(folder)
    if place.local is not None and not place.local.is_dir():
        raise fault(
            f"The folder {str(folder)!r} does not exist",
            "folders written by preparing a data set",
            "check the path or prepare the data set there",
        )
    info = read_info(place)
    for split, count in info.counts.items():
        rows = sum(_rows(place, file) for file in shards_of(info, split))
        if rows != count:
            raise _damaged(info, f"split {split!r} has {rows} images instead of {count}")
    return info


def read_split(info: DatasetInfo, split: str) -> pa.Table:
    """Read a whole split as one table with the columns `image` and `label`."""
    try:
        tables = [_read(info.path, file) for file in shards_of(info, split)]
    except (OSError, pa.ArrowException) as error:
        raise _damaged(info, f"split {split!r} cannot be read ({error})") from error
    return pa.concat_tables(tables)


def read_first(info: DatasetInfo, split: str, count: int) -> pa.Table:
    """Read the first rows of a split, and no more groups of rows than hold them."""
    groups: list[pa.Table] = []
    try:
        for group in _groups(info, split):
            groups.append(group)
            if sum(map(len, groups)) >= count:
                break
    except (OSError, pa.ArrowException) as error:
        raise _damaged(info, f"split {split!r} cannot be read ({error})") from error
    return pa.concat_tables(groups).slice(0, count)


def _groups(info: DatasetInfo, split: str) -> Iterator[pa.Table]:
    for name in shards_of(info, split):
        with pq.ParquetFile(info.path.file(name), filesystem=info.path.filesystem) as file:
            yield from map(file.read_row_group, range(file.num_row_groups))


def shards_of(info: DatasetInfo, split: str) -> list[str]:
    """Name the files of a split, in their order.

    Raises:
        DataError: no such split, or some are missing.
    """
    if split not in info.counts:
        raise fault(
            f"The data set {info.name!r} has no split {split!r}",
            f"the splits {', '.join(info.counts)}",
            "choose one of them or prepare the data set again with that split",
        )
    try:
        files = sorted(info.path.files())
    except OSError as error:
        raise unreachable(info.path, error) from error
    found = [match for file in files if (match := _SHARD.fullmatch(file)) and match[1] == split]
    expected = int(found[0][3]) if found else 1
    if [int(match[2]) for match in found] != list(range(expected)):
        raise _damaged(info, f"split {split!r} has {len(found)} of {expected} shards")
    return [match[0] for match in found]


def _read(place: Place, file: str) -> pa.Table:
    return pq.read_table(place.file(file), filesystem=place.filesystem, partitioning=None)


def _rows(place: Place, file: str) -> int:
    try:
        return int(pq.read_metadata(place.file(file), filesystem=place.filesystem).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise damaged_shard(place.file(file), error) from error


def _damaged(info: DatasetInfo, what: str) -> DataError:
    return fault(
        f"The data set {str(info.path)!r} is incomplete: {what}",
        "all shards that preparing wrote, unchanged",
        "copy the missing files or prepare the data set again with overwrite",
    )
