"""MATLAB files, as plain Python values."""

from io import BytesIO
from typing import Any

from utuning.data.faults import fault
from utuning.data.tree import Tree


def read_mat(tree: Tree, name: str, *keys: str) -> list[list[Any]]:
    """Read variables of a .mat file as lists, whatever their shape: a row, a column, or one value alone.

    Cells become their content and structs dictionaries.

    Raises:
        DataError: a file that is damaged or lacks a variable.
    """
    from scipy.io import loadmat

    data = tree.read(name)
    try:
        found = loadmat(BytesIO(data), simplify_cells=True, variable_names=keys)
        return [_listed(found[key]) for key in keys]
    # The parser raises almost anything on broken bytes: struct.error, TypeError, MemoryError, ...
    except Exception as error:
        raise fault(
            f"{name!r} of {tree.given!r} cannot be understood ({type(error).__name__}: {error})",
            f"MATLAB 5 files with {', '.join(keys)}",
            "fetch the original file again",
        ) from error


def _listed(value: Any) -> list[Any]:
    if isinstance(value, (dict, str)):
        return [value]
    if isinstance(value, list):
        return value
    items: list[Any] = value.ravel().tolist() if hasattr(value, "ravel") else [value]
    return items
