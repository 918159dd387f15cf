"""What may stand in an archive: plain files and folders whose names stay below its root."""

from pathlib import Path

from utuning.data.faults import fault
from utuning.data.names import inside


def entry_name(archive: Path, name: str, *, plain: bool) -> str:
    """Return the name of an archive's entry as a relative POSIX path without `.` parts.

    Args:
        archive: the archive.
        name: the entry's name as it stands there.
        plain: whether the entry is a regular file or a folder.

    Raises:
        DataError: a name that leaves the archive; a link, a device or the like.
    """
    checked = inside(name, f"The archive {str(archive)!r}")
    if not plain:
        raise fault(
            f"The archive {str(archive)!r} holds {checked!r}, which is a link, a device or another special file",
            "archives of plain files and folders",
            "fetch the original archive again, or extract this one yourself and give the folder",
        )
    return checked
