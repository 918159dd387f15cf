"""Checking labelled images and storing them as a data set with train, val and test splits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from utuning.data.checking import check_all
from utuning.data.examples import SPLITS, Example, Source
from utuning.data.faults import fault
from utuning.data.info import DatasetInfo, fingerprint, fingerprint_line
from utuning.data.shards import write_dataset
from utuning.data.space import require_space
from utuning.data.splitting import (
    Record,
    check_classes,
    class_order,
    duplicate_warnings,
    split_off,
)
from utuning.data.target import check_target, same_dataset


def prepare(
    examples: Iterable[Source],
    to: Path,
    *,
    name: str,
    description: str = "",
    val_fraction: float = 0.1,
    test_fraction: float | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> DatasetInfo:
    """Check that every image decodes, complete the splits and write the data set.

    Images are read twice and never held; only `Example` objects keep their bytes. `progress`
    is called with the number of images done, first while checking, then anew while writing.
    """
    _check_fractions(val_fraction, test_fraction)
    check_target(to, overwrite)
    sources = list(examples)
    checked = list(check_all(sources, skip_corrupt, progress))
    skipped = [s.path for s, record in zip(sources, checked, strict=True) if record is None]
    kept = [s for s, record in zip(sources, checked, strict=True) if record is not None]
    records = _complete_splits([record for record in checked if record is not None], val_fraction, test_fraction, seed)
    check_classes(records)
    lines = (fingerprint_line(r.split, r.label, r.digest) for r in records)
    if not overwrite and (existing := same_dataset(to, fingerprint(lines))):
        return existing
    require_space(to, sum(record.size for record in records))
    return write_dataset(
        _examples(kept, records),
        to,
        name=name,
        description=description,
        class_names=class_order(record.label for record in records),
        progress=progress,
        overwrite=overwrite,
        skipped=skipped,
        warnings=duplicate_warnings(records),
    )


def _check_fractions(val_fraction: float, test_fraction: float | None) -> None:
    for what, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if value is not None and not 0 < value < 1:
            raise fault(f"{what} is {value}", "numbers between 0 and 1, both excluded", "try 0.1 or 0.2")


def _complete_splits(
    records: list[Record], val_fraction: float, test_fraction: float | None, seed: int
) -> list[Record]:
    present = {record.split for record in records}
    if "train" not in present or present - set(SPLITS):
        raise fault(
            f"{len(records)} usable images were found, in the splits {sorted(present)}",
            f"the splits {', '.join(SPLITS)}, with images in train",
            "check the source",
        )
    if "test" not in present:
        if test_fraction is None:
            raise fault(
                "There are no test images",
                "data with a test split",
                "add a test folder or a test list, or give a test_fraction such as 0.2 to take "
                "that share of the training images",
            )
        records = split_off(records, "test", test_fraction, seed)
    return records if "val" in present else split_off(records, "val", val_fraction, seed)


def _examples(sources: Sequence[Source], records: Sequence[Record]) -> Iterator[Example]:
    for source, record in zip(sources, records, strict=True):
        yield Example(path=record.path, label=record.label, split=record.split, data=source.data)
