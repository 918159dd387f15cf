"""Reading pickles of plain values and byte arrays, and nothing else: no code of a pickle ever runs."""

import io
import pickle
from typing import Any

import numpy as np

from utuning.data.faults import fault


def read_pickle(data: bytes, where: str) -> Any:
    """Read a pickle of plain containers, numbers, text and uint8 arrays, also one that Python 2 wrote.

    Its arrays come as `Bytes`; see `Bytes.array`.

    Raises:
        DataError: a pickle that is damaged or asks for anything else.
    """
    try:
        return _Plain(io.BytesIO(data), encoding="latin1").load()
    # A broken pickle raises almost anything: EOFError, KeyError, IndexError, UnicodeDecodeError, ...
    except Exception as error:
        raise fault(
            f"{where} cannot be read as plain data ({type(error).__name__}: {error})",
            "pickles of lists, dictionaries, numbers, text and uint8 arrays",
            "fetch the original file again, and do not open this one with other tools",
        ) from error


class Bytes:
    """Stands for a numpy array until its state is known to be one of bytes."""

    def __init__(self, *args: object) -> None:
        """Ignore the arguments that numpy would get: they hold no content."""
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Keep what the pickle says."""
        self._state = state

    def array(self) -> np.ndarray:
        """Return the uint8 array; raises ValueError or TypeError where the state is none of such an array."""
        _, shape, kind, columns_first, raw = self._state
        if not isinstance(kind, _Kind) or kind.code not in ("u1", "|u1"):
            raise TypeError("an array of other numbers than uint8")
        content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")


class _Kind:
    """Stands for a numpy dtype."""

    def __init__(self, code: str, *args: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """The byte order of single bytes says nothing."""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode(encoding)


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): Bytes,
    ("numpy._core.multiarray", "_reconstruct"): Bytes,
    ("numpy", "ndarray"): Bytes,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
