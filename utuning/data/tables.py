"""Finding labelled images: Parquet files, such as those of the Hugging Face hub."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from utuning.data.examples import Packed
from utuning.data.faults import fault, shorten
from utuning.data.names import inside
from utuning.data.splitting import class_order
from utuning.errors import DataError

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")


def table_examples(root: Path, *, image: str | None = None, label: str | None = None) -> tuple[list[Packed], list[str]]:
    """List the images of a Parquet file, or of all of a folder; returns the class names in their order too.

    An image is a struct of `bytes` and `path`, or the bytes alone. A label is a text, or a number that the
    schema's Hugging Face metadata names, or a plain number. A file belongs to the split that its name or its folder
    begins with (train, val, valid, validation, dev or test); to train if there is none.

    Args:
        root: a file or a folder.
        image: the images' column; found by its type and name if left out.
        label: the labels' column; found by its type and name if left out.
    """
    tables = [_Table(file, image, label) for file in _files(root)]
    names = list(dict.fromkeys(name for table in tables for name in table.class_names))
    images = [packed for table in tables for packed in table.images(root if root.is_dir() else root.parent)]
    if not names:
        names = class_order(packed.label for packed in images)
    return images, names


def table_splits(root: Path) -> set[str]:
    """Tell the splits of a Parquet file, or of all of a folder, from the names; nothing is read."""
    return {_split_of(file.relative_to(root if root.is_dir() else root.parent)) for file in _files(root)}


def _files(root: Path) -> list[Path]:
    if not root.exists():
        raise fault(f"{str(root)!r} does not exist", "a Parquet file, or a folder of them", "check the path")
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not files:
        raise fault(f"{str(root)!r} holds no Parquet file", "files ending in .parquet", "check the path")
    return files


class _Table:
    """One file: which columns to read, and the last group of rows that was read."""

    def __init__(self, file: Path, image: str | None, label: str | None) -> None:
        self.path = file
        try:
            self._file = pq.ParquetFile(file, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        self._schema = self._file.schema_arrow
        self._features = _features(self._schema)
        self._image = image or self._choose("image", _IMAGES, self._image_columns())
        self._label = label or self._choose("label", _LABELS, self._label_columns())
        for column in (self._image, self._label):
            if column not in self._schema.names:
                raise fault(f"{str(file)!r} has no column {column!r}", shorten(self._schema.names, 20), "choose one")
        self._lock = threading.Lock()
        self._kept: tuple[int, pa.ChunkedArray] = (-1, pa.chunked_array([], pa.binary()))

    @property
    def class_names(self) -> list[str]:
        """The names that the metadata gives the labels' numbers; none if it does not."""
        return list(self._features.get(self._label, {}).get("names") or ())

    def images(self, root: Path) -> Iterator[Packed]:
        """List the rows; only labels are read."""
        split, names = _split_of(self.path.relative_to(root)), self.class_names
        where = self.path.relative_to(root).as_posix()
        for group in range(self._file.num_row_groups):
            labels = self._read(group, self._label).to_pylist()
            for row, label in enumerate(labels):
                path = f"{where}/{group:05d}-{row:05d}"
                text = self._name(label, names, path)
                yield Packed(path=path, label=text, split=split, read=partial(self._image_bytes, group, row, path))

    def _name(self, label: Any, names: Sequence[str], path: str) -> str:
        if isinstance(label, int) and (not names or 0 <= label < len(names)):
            return names[label] if names else str(label)
        if isinstance(label, str) and label:
            return label
        raise fault(
            f"The image {path!r} has the label {label!r}",
            f"a text, or a number{f' below {len(names)}' if names else ''}",
            "correct the label or remove the row",
        )

    def _image_bytes(self, group: int, row: int, path: str) -> bytes:
        # Neighbouring rows are asked for together, so that one kept group is enough.
        with self._lock:
            if self._kept[0] != group:
                self._kept = (group, self._read(group, self._image))
            value = self._kept[1][row].as_py()
        data = value if isinstance(value, bytes) else (value or {}).get("bytes")
        if data is None and isinstance(value, dict) and value.get("path"):
            data = self._beside(value["path"])
        if not isinstance(data, bytes):
            raise fault(f"The image {path!r} has no bytes", "rows with an encoded image", "remove the row")
        return data

    def _beside(self, name: str) -> bytes:
        file = self.path.parent / inside(name, str(self.path))
        try:
            return file.read_bytes()
        except OSError as error:
            raise fault(f"The image {str(file)!r} cannot be read ({error.strerror})", "files", "restore it") from error

    def _read(self, group: int, column: str) -> pa.ChunkedArray:
        try:
            return self._file.read_row_group(group, columns=[column]).column(0)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _image_columns(self) -> list[str]:
        return [f.name for f in self._schema if pa.types.is_struct(f.type) or _is_binary(f.type)]

    def _label_columns(self) -> list[str]:
        named = [name for name, feature in self._features.items() if feature.get("_type") == "ClassLabel"]
        return named or [f.name for f in self._schema if pa.types.is_integer(f.type) or pa.types.is_string(f.type)]

    def _choose(self, what: str, usual: Sequence[str], columns: Sequence[str]) -> str:
        choice = [name for name in usual if name in columns] or list(columns)
        if len(choice) == 1 or (choice and choice[0] in usual):
            return choice[0]
        raise fault(
            f"{str(self.path)!r} has the columns {shorten(self._schema.names, 20)}; which one is the {what} is unclear",
            f"one column that can be the {what}, or one named {' or '.join(usual)}",
            f"name it with --{what}-column",
        )

    def _damaged(self, error: Exception) -> DataError:
        return fault(f"{str(self.path)!r} is damaged ({error})", "complete Parquet files", "fetch it again")


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def _split_of(path: Path) -> str:
    words = [re.split(r"[^a-z]", part.lower())[0] for part in reversed(path.parts)]
    return next((_SPLITS[word] for word in words if word in _SPLITS), "train")
