"""Stored data sets: writing them all at once or not at all, opening and reading them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from utuning.data.atomic import publish, writing_folder
from utuning.data.descriptions import write_descriptions
from utuning.data.examples import SPLITS, Example
from utuning.data.faults import fault
from utuning.data.info import DatasetInfo, fingerprint, fingerprint_line
from utuning.data.opening import open_dataset, read_split
from utuning.data.parquet import SplitWriter, image_schema
from utuning.data.target import check_target, same_dataset

__all__ = ["DatasetInfo", "open_dataset", "read_split", "write_dataset"]


def write_dataset(
    examples: Iterable[Example],
    to: Path,
    *,
    name: str,
    class_names: Sequence[str],
    description: str = "",
    progress: Callable[[int], None] | None = None,
    rows_per_shard: int = 4096,
    overwrite: bool = False,
    skipped: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> DatasetInfo:
    """Store examples as a data set folder, one at a time.

    `progress` is called with the number of images written so far. A folder that holds the same
    images already is left as it is, and its description returned; `overwrite` replaces a data
    set, and only a data set.
    """
    _check_arguments(class_names, rows_per_shard)
    check_target(to, overwrite)
    with writing_folder(to) as partial:
        counts, print_ = _write_splits(examples, partial, class_names, rows_per_shard, progress)
        if not overwrite and (existing := same_dataset(to, print_)):
            return existing
        info = DatasetInfo(
            path=to,
            name=name,
            class_names=tuple(class_names),
            counts=counts,
            fingerprint=print_,
            description=description,
            skipped=tuple(skipped),
            warnings=tuple(warnings),
        )
        write_descriptions(partial, info)
        publish(partial, to)
    return info


def _check_arguments(class_names: Sequence[str], rows_per_shard: int) -> None:
    if not class_names or len(set(class_names)) != len(class_names):
        raise fault(
            f"{len(class_names)} class names of which {len(set(class_names))} differ were given",
            "one or more class names, each once",
            "correct the class names",
        )
    if rows_per_shard < 1:
        raise fault(f"rows_per_shard is {rows_per_shard}", "1 or more", "leave it at its default")


def _write_splits(
    examples: Iterable[Example],
    folder: Path,
    class_names: Sequence[str],
    rows_per_shard: int,
    progress: Callable[[int], None] | None,
) -> tuple[dict[str, int], str]:
    ids = {name: number for number, name in enumerate(class_names)}
    schema = image_schema(class_names)
    (folder / "data").mkdir()
    lines: list[str] = []
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(SplitWriter(folder / "data", split, schema, rows_per_shard)) for split in SPLITS
        }
        for example in examples:
            _check_example(example, ids)
            writers[example.split].add(example.path, ids[example.label], example.data)
            digest = hashlib.sha256(example.data).hexdigest()
            lines.append(fingerprint_line(example.split, example.label, digest))
            if progress:
                progress(len(lines))
    if not lines:
        raise fault("There are no images", "at least one image", "check the source of the images")
    return {s: w.count for s, w in writers.items() if w.count}, fingerprint(lines)


def _check_example(example: Example, ids: dict[str, int]) -> None:
    if example.split not in SPLITS:
        raise fault(
            f"The image {example.path!r} is in the split {example.split!r}",
            f"the splits {', '.join(SPLITS)}",
            "rename the split",
        )
    if example.label not in ids:
        raise fault(
            f"The image {example.path!r} has the class {example.label!r}",
            f"the {len(ids)} class names that were given",
            "add the class name or drop the image",
        )
