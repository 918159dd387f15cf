"""Opening a stored data set and reading its splits."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from utuning.data.faults import fault
from utuning.data.info import DatasetInfo, read_info
from utuning.errors import DataError

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")


def open_dataset(folder: Path | str) -> DatasetInfo:
    """Read the description of a stored data set and check that its shards are complete."""
    folder = Path(folder)
    if not folder.is_dir():
        raise fault(
            f"The folder {str(folder)!r} does not exist",
            "folders written by preparing a data set",
            "check the path or prepare the data set there",
        )
    info = read_info(folder)
    for split, count in info.counts.items():
        rows = sum(_rows(file) for file in _shards(info, split))
        if rows != count:
            raise _damaged(info, f"split {split!r} has {rows} images instead of {count}")
    return info


def read_split(info: DatasetInfo, split: str) -> pa.Table:
    """Read a whole split as one table with the columns `image` and `label`."""
    if split not in info.counts:
        raise fault(
            f"The data set {info.name!r} has no split {split!r}",
            f"the splits {', '.join(info.counts)}",
            "choose one of them or prepare the data set again with that split",
        )
    try:
        tables = [pq.read_table(file, memory_map=True) for file in _shards(info, split)]
    except (OSError, pa.ArrowException) as error:
        raise _damaged(info, f"split {split!r} cannot be read ({error})") from error
    return pa.concat_tables(tables)


def _shards(info: DatasetInfo, split: str) -> list[Path]:
    files = sorted((info.path / "data").glob(f"{split}-*-of-*.parquet"))
    numbers = [match.groups() for file in files if (match := _SHARD.search(file.name))]
    expected = int(numbers[0][1]) if numbers else 1
    if [int(number) for number, _ in numbers] != list(range(expected)):
        raise _damaged(info, f"split {split!r} has {len(numbers)} of {expected} shards")
    return files


def _rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise fault(
            f"The shard {str(file)!r} is damaged ({error})",
            "shards as preparing wrote them",
            "copy it again or prepare the data set again with overwrite",
        ) from error


def _damaged(info: DatasetInfo, what: str) -> DataError:
    return fault(
        f"The data set {str(info.path)!r} is incomplete: {what}",
        "all shards that preparing wrote, unchanged",
        "copy the missing files or prepare the data set again with overwrite",
    )
