"""Names of files inside archives, folders and lists: below their root or refused."""

from pathlib import PurePosixPath

from utuning.data.faults import fault


def inside(name: str, where: str) -> str:
    """Return a relative POSIX path without `.` parts.

    Raises:
        DataError: an absolute name, one with `..`, or one that other systems read as such.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise fault(
            f"{where} names the file {name!r}",
            "relative names that stay below their root",
            "fetch the original archive again; one with such names was changed or damaged",
        )
    return path.as_posix()
