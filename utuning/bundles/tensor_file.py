"""Safetensors from elsewhere: the header is checked by hand before memory is taken for what it promises."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from utuning.bundles.files import AGAIN, parse_json
from utuning.errors import BundleError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 4 << 20
MAX_DIMS = 8
LARGEST = 2**63 - 1
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


def read_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes; `name` is what messages call it.

    Raises:
        BundleError: a header that is none, that promises other bytes than there are, or a number that is not finite.
    """
    check_header(content, name)
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise BundleError(f"{name} is no safetensors file ({error}); {AGAIN}") from error
    for key, value in tensors.items():
        bad = value.numel() - int(torch.isfinite(value).sum())
        if bad:
            raise BundleError(
                f"{name} has {bad} of {value.numel()} values in {key!r} that are NaN or infinite; allowed: finite "
                "numbers; take the bundle of another epoch or trial"
            )
    return tensors


def check_header(content: bytes, name: str) -> None:
    """Check that every tensor is of a known type, and that together they fill the file, without gap or overlap.

    Raises:
        BundleError: they do not.
    """
    size = int.from_bytes(content[:LENGTH_BYTES], "little")
    room = len(content) - LENGTH_BYTES
    if room < 0 or size > min(room, MAX_HEADER_BYTES):
        raise BundleError(
            f"{name} is no safetensors file: its first bytes promise a header of {size:,} bytes; allowed: at most "
            f"{max(0, min(room, MAX_HEADER_BYTES)):,} in this file; {AGAIN}"
        )
    header = parse_json(content[LENGTH_BYTES : LENGTH_BYTES + size], f"the header of {name}")
    header.pop("__metadata__", None)
    spans = sorted(_span(key, entry, name) for key, entry in header.items())
    end = 0
    for start, stop, key in spans:
        if start != end:
            raise BundleError(f"{name} puts {key!r} at byte {start:,} of its data; allowed: {end:,}; {AGAIN}")
        end = stop
    if end != room - size:
        raise BundleError(f"{name} promises {end:,} bytes of tensors and has {room - size:,}; {AGAIN}")


def _span(key: str, entry: Any, name: str) -> tuple[int, int, str]:
    """(first byte, byte after the last, name) of a tensor."""
    here = f"{name} describes {key[:80]!r} as"
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BundleError(f"{here} {str(entry)[:60]}; allowed: dtype, shape and data_offsets; {AGAIN}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BundleError(f"{here} {str(dtype)[:20]}; allowed dtypes: {', '.join(DTYPE_BYTES)}; {AGAIN}")
    if not _counts(shape) or len(shape) > MAX_DIMS or not _counts(offsets) or len(offsets) != 2:
        raise BundleError(
            f"{here} of shape {str(shape)[:60]} at {str(offsets)[:60]}; allowed: up to {MAX_DIMS} sizes of 0 or more, "
            f"and two offsets; {AGAIN}"
        )
    start, stop = offsets
    if stop - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        takes = math.prod(shape) * DTYPE_BYTES[dtype]
        raise BundleError(
            f"{here} {dtype} of shape {str(shape)[:60]}, which takes {takes:,} bytes, and gives it {stop - start:,}; "
            f"{AGAIN}"
        )
    return start, stop, key


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= LARGEST for value in values)
