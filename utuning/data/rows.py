"""The rows of a split, wherever they lie: labels at hand, and the encoded image of any row when it is asked for."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from utuning.data.faults import fault


class Rows(Protocol):
    """What a loader reads."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each row, int64 of shape (N,)."""

    def image(self, row: int) -> tuple[bytes, str]:
        """The encoded bytes of a row, and a name for messages."""


class TableRows:
    """Rows of a table in memory, with the columns `image` and `label`."""

    def __init__(self, table: pa.Table) -> None:
        self._images = _column(table, "image")
        self.labels: np.ndarray = _column(table, "label").to_numpy()

    def image(self, row: int) -> tuple[bytes, str]:
        """The encoded bytes of a row, and its path."""
        image = self._images[row].as_py()
        return image["bytes"], image["path"]


class ChainedRows:
    """Rows of several splits, one after another."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.labels) for part in parts)])
        self.labels = np.concatenate([part.labels for part in parts])

    def image(self, row: int) -> tuple[bytes, str]:
        """The encoded bytes of a row, and its name in its split."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._parts[part].image(row - int(self._starts[part]))


class PickedRows:
    """Some of the rows of a split, in the order that is given."""

    def __init__(self, rows: Rows, picked: Sequence[int]) -> None:
        self._rows, self._picked = rows, picked
        self.labels = rows.labels[np.asarray(picked, dtype=np.int64)]

    def image(self, row: int) -> tuple[bytes, str]:
        """The encoded bytes of a row, and its name in its split."""
        return self._rows.image(self._picked[row])


def as_rows(given: pa.Table | Rows) -> Rows:
    """What a loader reads of a table, or the rows as they are."""
    return TableRows(given) if isinstance(given, pa.Table) else given


def chained(given: Sequence[pa.Table | Rows]) -> Rows:
    """The rows of splits, one after another."""
    parts = [as_rows(each) for each in given]
    return parts[0] if len(parts) == 1 else ChainedRows(parts)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise fault(
            f"The table has the columns {table.column_names}",
            "tables with image and label",
            "read the split of a prepared data set",
        )
    return table.column(name)
