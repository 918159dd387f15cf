"""Which folders a data set may be written to."""

from pathlib import Path

from utuning.data.descriptions import README_FILE
from utuning.data.faults import fault
from utuning.data.info import INFO_FILE, DatasetInfo, unreachable
from utuning.data.opening import open_dataset
from utuning.data.places import Place


def check_target(to: Place, overwrite: bool) -> None:
    """Raise `DataError` where `to` is something that a data set must not replace."""
    names = _local_names(to.local) if to.local is not None else _stored_names(to)
    if names and INFO_FILE not in names:
        raise fault(
            f"The folder {str(to)!r} holds something that is no data set",
            "a new or empty folder; overwrite replaces data sets only",
            "choose another folder or empty this one yourself",
        )
    if names and not overwrite:
        open_dataset(to)


def _local_names(to: Path) -> set[str]:
    if not to.exists() and not to.is_symlink():
        return set()
    if not to.is_dir() or to.is_symlink():
        raise fault(f"{str(to)!r} is a file or a link", "a new folder", "choose another path")
    return {child.name for child in to.iterdir()}


def _stored_names(to: Place) -> set[str]:
    try:
        names = set(to.files())
    except OSError as error:
        raise unreachable(to, error) from error
    # What an earlier call left there when it died is no data set either, but this package's own.
    unfinished = all(name == README_FILE or (name.startswith("data/") and name.endswith(".parquet")) for name in names)
    return set() if unfinished else names


def same_dataset(to: Place, fingerprint: str) -> DatasetInfo | None:
    """Return the data set at `to` if its images are the same; raise if it is another one."""
    if INFO_FILE not in (_local_names(to.local) if to.local is not None else _stored_names(to)):
        return None
    existing = open_dataset(to)
    if existing.fingerprint == fingerprint:
        return existing
    raise fault(
        f"The folder {str(to)!r} already holds the data set {existing.name!r} with other images, classes or splits",
        "a new folder, or overwrite to replace the data set",
        "choose another folder or allow overwriting",
    )
