"""The description of a stored data set: `dataset.json` and the fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utuning.data.faults import fault

SCHEMA_VERSION = 1
INFO_FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is in a stored data set and where it lies."""

    path: Path
    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    fingerprint: str
    description: str = ""
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form; the place of the data set is no part of it."""
        fields = asdict(self)
        del fields["path"]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], path: Path) -> "DatasetInfo":
        """Rebuild from the JSON form; raises KeyError, TypeError or ValueError on a bad one."""
        return cls(
            path=path,
            name=str(fields["name"]),
            class_names=tuple(str(name) for name in fields["class_names"]),
            counts={str(split): int(count) for split, count in dict(fields["counts"]).items()},
            fingerprint=str(fields["fingerprint"]),
            description=str(fields.get("description", "")),
            skipped=tuple(str(path) for path in fields.get("skipped", ())),
            warnings=tuple(str(text) for text in fields.get("warnings", ())),
            schema_version=int(fields["schema_version"]),
        )


def fingerprint_line(split: str, label: str, digest: str) -> str:
    """Return the line that one image adds to the fingerprint."""
    return json.dumps([split, label, digest], ensure_ascii=False)


def fingerprint(lines: Iterable[str]) -> str:
    """Hash the lines of all images, whatever their order."""
    total = hashlib.sha256()
    for line in sorted(lines):
        total.update(line.encode() + b"\n")
    return total.hexdigest()


def read_info(folder: Path) -> DatasetInfo:
    """Read and check `dataset.json` of a folder."""
    file = folder / INFO_FILE
    if not file.is_file():
        raise fault(
            f"{str(folder)!r} holds no data set: there is no {INFO_FILE}",
            "folders written by preparing a data set",
            "check the path or prepare the data set there",
        )
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        version = int(fields["schema_version"])
        if version <= SCHEMA_VERSION:
            return DatasetInfo.from_dict(fields, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fault(
            f"{str(file)!r} cannot be understood ({type(error).__name__}: {error})",
            f"the {INFO_FILE} that preparing writes, unchanged",
            "prepare the data set again with overwrite",
        ) from error
    raise fault(
        f"{str(file)!r} has schema version {version}",
        f"schema versions up to {SCHEMA_VERSION}",
        "upgrade this package or prepare the data set again with overwrite",
    )
