"""The rows of a split, wherever they lie: labels at hand, and the encoded image of any row when it is asked for."""

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


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise fault(
            f"The table has the columns {table.column_names}",
            "tables with image and label",
            "read the split of a prepared data set",
        )
    return table.column(name)
