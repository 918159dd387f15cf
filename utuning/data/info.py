"""The description of a stored data set: `dataset.json` and the fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from utuning.data.examples import SPLITS, Row
from utuning.data.faults import fault
from utuning.data.places import Place
from utuning.errors import DataError, StoreError

# Since 2, the fingerprint covers the order of rows and classes.
SCHEMA_VERSION = 2
INFO_FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is in a stored data set and where it lies.

    `fingerprint` is the data version. `reader` is the known data set that it was read as, `subset` whether it was
    allowed to lack a part of that, and `val` says where the val split comes from. `shorter_side` is what images were
    shrunk to, in pixels, where they were larger; None where all are stored as they came.
    """

    path: Place
    name: str
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    fingerprint: str
    description: str = ""
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reader: str = ""
    subset: bool = False
    val: str = ""
    shorter_side: int | None = None
    schema_version: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form; the place of the data set is no part of it."""
        fields = asdict(replace(self, path=Place("")))
        del fields["path"]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], path: Place) -> "DatasetInfo":
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
            reader=str(fields.get("reader", "")),
            subset=bool(fields.get("subset", False)),
            val=str(fields.get("val", "")),
            shorter_side=None if fields.get("shorter_side") is None else int(fields["shorter_side"]),
            schema_version=int(fields["schema_version"]),
        )


def fingerprint(class_names: Sequence[str], rows: Iterable[Row]) -> str:
    """Hash what training sees: the classes in their order, and each split's images and labels in theirs.

    The order counts, because crops, batches and cached states go by the number of a row.
    """
    splits = {split: hashlib.sha256() for split in SPLITS}
    for row in rows:
        splits[row.split].update(json.dumps([row.label, row.digest], ensure_ascii=False).encode() + b"\n")
    facts = [list(class_names), {split: found.hexdigest() for split, found in splits.items()}]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def read_info(folder: Place) -> DatasetInfo:
    """Read and check `dataset.json` of a folder."""
    file = folder.file(INFO_FILE)
    try:
        text = folder.read(INFO_FILE)
    except FileNotFoundError as error:
        raise fault(
            f"{str(folder)!r} holds no data set: there is no {INFO_FILE}",
            "folders written by preparing a data set",
            "check the path or prepare the data set there",
        ) from error
    except OSError as error:
        raise unreachable(folder, error) from error
    try:
        fields = json.loads(text.decode())
        version = int(fields["schema_version"])
        if version <= SCHEMA_VERSION:
            return DatasetInfo.from_dict(fields, folder)
    except (ValueError, KeyError, TypeError) as error:
        raise fault(
            f"{file!r} cannot be understood ({type(error).__name__}: {error})",
            f"the {INFO_FILE} that preparing writes, unchanged",
            "prepare the data set again with overwrite",
        ) from error
    raise fault(
        f"{file!r} has schema version {version}",
        f"schema versions up to {SCHEMA_VERSION}",
        "upgrade this package or prepare the data set again with overwrite",
    )


def unreachable(place: Place, error: Exception) -> DataError:
    """Build the error for a place that cannot be read."""
    return fault(
        f"{str(place)!r} cannot be read ({error})",
        "places that can be reached with the credentials of the environment",
        "check the address, the credentials and the network",
        StoreError,
    )
