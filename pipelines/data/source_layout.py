"""What the layout of a space's source tells before any image is read: is it prepared, and which splits has it?

A search asks before it starts Ray, so what takes long to import is imported where a source needs it.
"""

from collections.abc import Collection
from pathlib import Path

from search_spaces.space import DatasetSpec, SearchSpace


def check_source(space: SearchSpace) -> None:
    """Refuse data without a val that the space's protocol could select on, where their layout tells.

    Raises:
        DataError: there is none, or the source cannot be read.
    """
    spec = space.dataset
    if spec.source == "drawn":
        return
    from utuning.data.info import read_info
    from utuning.data.places import Place
    from utuning.data.val import check_given_val, check_val

    if is_prepared(spec):
        check_val(read_info(Place.of(str(spec.path))), space.protocol)
    elif (splits := _given_splits(spec)) is not None:
        check_given_val(f"The data set {spec.name!r}, source {spec.source!r},", splits, space.protocol)


def is_prepared(spec: DatasetSpec) -> bool:
    """Whether a source is a data set that was prepared before, and not Parquet files of others."""
    if spec.source != "parquet" or spec.path is None:
        return False
    from utuning.data.info import INFO_FILE
    from utuning.data.places import Place

    place = Place.of(spec.path)
    return place.local is None or (place.local / INFO_FILE).is_file()


def _given_splits(spec: DatasetSpec) -> Collection[str] | None:
    """The splits that a source has before any is drawn; None where a setting is missing, which preparing says."""
    if spec.source == "lists":
        return spec.lists
    if spec.source not in ("folder", "parquet"):
        from utuning.data.fgvc.table import READERS

        return READERS[spec.source].expected.counts
    if spec.path is None:
        return None
    path = Path(spec.path).expanduser()
    if spec.source == "folder":
        from utuning.data.readers import split_folders

        return split_folders(path)
    from utuning.data.tables import table_splits

    return table_splits(path)
