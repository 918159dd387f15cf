"""Stored data sets: writing them all at once or not at all, opening and reading them."""

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing

from utuning.data.descriptions import README_FILE, write_descriptions
from utuning.data.examples import SPLITS, Row
from utuning.data.faults import Progress, fault
from utuning.data.info import DatasetInfo, fingerprint
from utuning.data.opening import open_dataset, read_split
from utuning.data.parquet import Shard, cut_shards, is_written, write_shard
from utuning.data.places import Place, Target
from utuning.data.staging import remove_stale, staging
from utuning.data.target import check_target, same_dataset

__all__ = ["DatasetInfo", "open_dataset", "read_split", "write_dataset"]


def write_dataset(
    images: Iterable[Row],
    to: Target,
    *,
    name: str,
    class_names: Sequence[str],
    description: str = "",
    progress: Progress | None = None,
    rows_per_shard: int = 4096,
    overwrite: bool = False,
    resume: bool = False,
    skipped: Sequence[str] = (),
    warnings: Sequence[str] = (),
    reader: str = "",
    subset: bool = False,
    val: str = "",
    shorter_side: int | None = None,
) -> DatasetInfo:
    """Store images as a data set folder, reading the bytes of one group of rows at a time.

    `progress` is told of the images written so far. A folder that holds the same
    images already is left as it is, and its description returned; `overwrite` replaces a data
    set, and only a data set. With `resume`, shards that a call for the same images finished before it
    was stopped are kept; the caller sees to it that there is one such call for a target at a time.
    """
    to, rows = Place.of(to), list(images)
    _check_arguments(rows, class_names, rows_per_shard)
    check_target(to, overwrite)
    print_ = fingerprint(class_names, rows)
    if not overwrite and (existing := same_dataset(to, print_)):
        return existing
    counts = Counter(row.split for row in rows)
    info = DatasetInfo(
        path=to,
        name=name,
        class_names=tuple(class_names),
        counts={split: counts[split] for split in SPLITS if split in counts},
        fingerprint=print_,
        description=description,
        skipped=tuple(skipped),
        warnings=tuple(warnings),
        reader=reader,
        subset=subset,
        val=val,
        shorter_side=shorter_side,
    )
    _write(info, cut_shards(rows, rows_per_shard), resume, progress)
    return info


def _write(info: DatasetInfo, shards: Sequence[Shard], resume: bool, progress: Progress | None) -> None:
    key = _key(info.fingerprint, shards)
    if resume and info.path.local is not None:
        remove_stale(info.path.local, key)
    done, total = 0, sum(info.counts.values())
    with staging(info.path, key if resume else None, [README_FILE, *(shard.name for shard in shards)]) as place:
        for shard in shards:
            with closing(_steps(place, shard, info.class_names, key)) as steps:
                for step in steps:
                    done += step
                    if progress:
                        progress("writing", done, total)
        write_descriptions(place, info)


def _steps(place: Place, shard: Shard, class_names: Sequence[str], key: str) -> Generator[int]:
    if is_written(place, shard, key):
        yield len(shard.rows)
        return
    # Closed here and now: a stream that is closed late would put a part in the place of a whole shard.
    with closing(write_shard(place, shard, class_names, key)) as steps:
        yield from steps


def _key(fingerprint: str, shards: Sequence[Shard]) -> str:
    """Change with the content, its division into shards, and the paths that are stored beside it."""
    found = hashlib.sha256(fingerprint.encode())
    for shard in shards:
        found.update("\n".join([shard.name, *(row.path for row in shard.rows)]).encode())
    return found.hexdigest()[:16]


def _check_arguments(rows: Sequence[Row], class_names: Sequence[str], rows_per_shard: int) -> None:
    if not class_names or len(set(class_names)) != len(class_names):
        raise fault(
            f"{len(class_names)} class names of which {len(set(class_names))} differ were given",
            "one or more class names, each once",
            "correct the class names",
        )
    if rows_per_shard < 1:
        raise fault(f"rows_per_shard is {rows_per_shard}", "1 or more", "leave it at its default")
    if not rows:
        raise fault("There are no images", "at least one image", "check the source of the images")
    known = set(class_names)
    for row in rows:
        _check_row(row, known)


def _check_row(row: Row, known: set[str]) -> None:
    if row.split not in SPLITS:
        raise fault(
            f"The image {row.path!r} is in the split {row.split!r}",
            f"the splits {', '.join(SPLITS)}",
            "rename the split",
        )
    if row.label not in known:
        raise fault(
            f"The image {row.path!r} has the class {row.label!r}",
            f"the {len(known)} class names that were given",
            "add the class name or drop the image",
        )
