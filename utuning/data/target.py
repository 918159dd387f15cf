"""Which folders a data set may be written to."""

from pathlib import Path

from utuning.data.faults import fault
from utuning.data.info import INFO_FILE, DatasetInfo
from utuning.data.opening import open_dataset


def check_target(to: Path, overwrite: bool) -> None:
    """Raise `DataError` where `to` is something that a data set must not replace."""
    if not to.exists() and not to.is_symlink():
        return
    if not to.is_dir() or to.is_symlink():
        raise fault(
            f"{str(to)!r} is a file or a link",
            "a new folder",
            "choose another path",
        )
    if any(to.iterdir()) and not (to / INFO_FILE).is_file():
        raise fault(
            f"The folder {str(to)!r} holds something that is no data set",
            "a new or empty folder; overwrite replaces data sets only",
            "choose another folder or empty this one yourself",
        )
    if not overwrite and any(to.iterdir()):
        open_dataset(to)


def same_dataset(to: Path, fingerprint: str) -> DatasetInfo | None:
    """Return the data set at `to` if its images are the same; raise if it is another one."""
    if not (to / INFO_FILE).is_file():
        return None
    existing = open_dataset(to)
    if existing.fingerprint == fingerprint:
        return existing
    raise fault(
        f"The folder {str(to)!r} already holds the data set {existing.name!r} with other images, classes or splits",
        "a new folder, or overwrite to replace the data set",
        "choose another folder or allow overwriting",
    )
