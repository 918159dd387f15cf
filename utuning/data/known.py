"""Preparing the data sets that have a reader of their own."""

from pathlib import Path
from typing import Any

from utuning.data.faults import Progress
from utuning.data.info import DatasetInfo
from utuning.data.integrity import check_listing
from utuning.data.listing import Reader
from utuning.data.places import Place, Target
from utuning.data.prepare import Known, check_request, prepare
from utuning.data.tree import open_tree
from utuning.data.work import work_folder, working


def prepare_known(
    reader: Reader,
    source: Path,
    to: Target,
    *,
    name: str | None = None,
    subset: bool = False,
    work: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> DatasetInfo:
    """Prepare a known data set from its official archives or what is in them.

    Args:
        reader: a row of `fgvc.table.READERS`.
        source: an archive, or a folder with archives, their content or both.
        to: see `prepare`.
        name: the data set's name; the reader's by default.
        subset: take what is there where counts differ from the official ones, and say so in the description.
        work: see `prepare`; compressed archives are unpacked there too.
        progress: see `prepare`.
        options: those of `prepare`.

    Raises:
        DataError: files that are missing, damaged or not those of the official data set.
    """
    to = Place.of(to)
    check_request(to, **options)
    with (
        working(work_folder(to, "unpacked", work)) as folder,
        open_tree(source, reader.archives, folder) as tree,
    ):
        listing = reader.read(tree)
        differs = check_listing(listing, reader.expected, str(source), subset=subset)
        known = Known(
            reader=reader.name,
            class_names=listing.class_names,
            expected=reader.expected,
            warnings=differs,
            subset=subset,
        )
        return prepare(
            listing.images,
            to,
            name=name or reader.name,
            description=reader.title,
            known=known,
            work=work,
            progress=progress,
            **options,
        )
