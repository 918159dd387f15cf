"""Checking labelled images and storing them as a data set with train, val and test splits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utuning.data.checking import check_all
from utuning.data.examples import SPLITS, Checked, Source
from utuning.data.faults import Progress, fault
from utuning.data.info import DatasetInfo, fingerprint
from utuning.data.integrity import published_warnings
from utuning.data.listing import Expected
from utuning.data.places import Place, Target
from utuning.data.protocols import AS_GIVEN, NO_VAL, VAL_FRACTION, drawn, find_protocol
from utuning.data.shards import write_dataset
from utuning.data.shrinking import check_shorter_side
from utuning.data.space import require_space
from utuning.data.splitting import (
    check_classes,
    class_order,
    drop_unfit_classes,
    duplicate_warnings,
    split_off,
)
from utuning.data.target import check_target, same_dataset
from utuning.data.work import work_folder, working


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a data set beside its images: its reader's name, its classes in order, its counts."""

    reader: str
    class_names: Sequence[str]
    expected: Expected | None = None
    warnings: Sequence[str] = ()
    subset: bool = False


def prepare(
    examples: Iterable[Source],
    to: Target,
    *,
    name: str,
    description: str = "",
    protocol: str = "vpt",
    val_fraction: float = VAL_FRACTION,
    test_fraction: float | None = None,
    seed: int = 0,
    skip_corrupt: bool = False,
    shorter_side: int | None = None,
    overwrite: bool = False,
    known: Known | None = None,
    work: Path | None = None,
    progress: Progress | None = None,
) -> DatasetInfo:
    """Check that every image decodes, complete the splits and write the data set.

    Images are read twice and never held; only `Example` objects keep their bytes. `progress`
    is told of the images done, first while checking, then anew while writing. When the process is stopped
    or dies, a later call for the same target goes on: it neither checks nor writes again what is done.

    Args:
        examples: the images.
        to: a local folder, or the URI of a folder in an object store.
        name: the data set's name.
        description: a text for people.
        protocol: a name of `protocols.PROTOCOLS`; says whether val is taken from train where there is none.
        val_fraction: the share of train that becomes val.
        test_fraction: the share of train that becomes test where there is none.
        seed: decides which images these are.
        skip_corrupt: leave out images that do not decode.
        shorter_side: store larger images with a shorter side of so many pixels, as JPEGs; see `encode.shrunk`.
        overwrite: replace another data set at the target.
        known: what a reader knows; the classes are sorted by name without it.
        work: where the folder for going on is made; see `work.work_folder`.
        progress: see above.
    """
    to = Place.of(to)
    check_request(
        to,
        protocol=protocol,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        shorter_side=shorter_side,
        overwrite=overwrite,
    )
    holds_out = find_protocol(protocol).holds_out
    with working(work_folder(to, "checked", work)) as folder:
        sources = list(examples)
        journal = folder / f"checked-{shorter_side or 'as-given'}.jsonl"
        checked = list(check_all(sources, skip_corrupt, progress, journal, shorter_side))
        skipped = [s.path for s, record in zip(sources, checked, strict=True) if record is None]
        records = [record for record in checked if record is not None]
        given_val = any(record.split == "val" for record in records)
        records, notes = _fit_classes(records, known)
        records = _complete_splits(records, val_fraction if holds_out else None, test_fraction, seed)
        check_classes(records)
        class_names = _class_names(records, known)
        if not overwrite and (existing := same_dataset(to, fingerprint(class_names, records))):
            return existing
        if to.local is not None:
            require_space(to.local, sum(record.size for record in records))
        return write_dataset(
            records,
            to,
            name=name,
            description=description,
            class_names=class_names,
            progress=progress,
            overwrite=overwrite,
            resume=True,
            skipped=skipped,
            warnings=[*notes, *_published(records, known), *duplicate_warnings(records)],
            reader=known.reader if known else "",
            subset=known.subset if known else False,
            val=AS_GIVEN if given_val else drawn(val_fraction, seed) if holds_out else NO_VAL,
            shorter_side=shorter_side,
        )


def _fit_classes(records: list[Checked], known: Known | None) -> tuple[list[Checked], list[str]]:
    if known is None or not known.subset:
        return records, list(known.warnings) if known else []
    records, left_out = drop_unfit_classes(records)
    return records, [*known.warnings, *left_out]


def _class_names(records: Sequence[Checked], known: Known | None) -> list[str]:
    used = {record.label for record in records}
    return [name for name in known.class_names if name in used] if known else class_order(used)


def _published(records: Sequence[Checked], known: Known | None) -> list[str]:
    if known is None or known.expected is None or known.subset:
        return []
    return published_warnings(known.expected, {s: sum(record.split == s for record in records) for s in SPLITS})


def check_request(
    to: Place,
    *,
    protocol: str = "vpt",
    val_fraction: float = VAL_FRACTION,
    test_fraction: float | None = None,
    shorter_side: int | None = None,
    overwrite: bool = False,
    **others: Any,
) -> None:
    """Check what can be checked of the arguments of `prepare` before any image is looked for.

    Raises:
        ConfigError: an unknown protocol.
        DataError: a fraction, a size or a target that cannot be used.
    """
    find_protocol(protocol)
    for what, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if value is not None and not 0 < value < 1:
            raise fault(f"{what} is {value}", "numbers between 0 and 1, both excluded", "try 0.1 or 0.2")
    check_shorter_side(shorter_side)
    check_target(to, overwrite)


def _complete_splits(
    records: list[Checked], val_fraction: float | None, test_fraction: float | None, seed: int
) -> list[Checked]:
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
    return records if "val" in present or val_fraction is None else split_off(records, "val", val_fraction, seed)
