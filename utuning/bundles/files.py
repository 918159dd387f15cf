"""The files of a folder from elsewhere: regular ones only, of a bounded size, and strict JSON."""

import json
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from utuning.errors import BundleError

MAX_DEPTH = 32
AGAIN = "pull the bundle again"


def check_entries(folder: Path, allowed: Collection[str]) -> None:
    """Check that a folder holds these regular files, and nothing else.

    Raises:
        BundleError: no folder, a link, a folder inside it, a file too many, or one too few.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is no bundle: there is no such folder; `utuning pull` makes one")
    expected = ", ".join(sorted(allowed))
    found = set()
    for entry in os.scandir(folder):
        if entry.is_symlink():
            raise BundleError(f"{entry.path} is a link; a bundle holds regular files only: copy what it points to")
        if not entry.is_file(follow_symlinks=False):
            raise BundleError(f"{entry.path} is no regular file; a bundle holds {expected}; {AGAIN}")
        if entry.name not in allowed:
            raise BundleError(
                f"{entry.path} is not in the bundle's manifest; allowed: {expected}; remove it, or {AGAIN}"
            )
        found.add(entry.name)
    if missing := sorted(set(allowed) - found):
        raise BundleError(f"{folder} is incomplete: {', '.join(missing)} is missing; it needs {expected}; {AGAIN}")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file that is not larger than allowed; its size is known before a byte is read.

    Raises:
        BundleError: it cannot be read, is a link or no regular file, or is larger.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for ever.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(file, "rb") as opened:
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode):
                raise BundleError(f"{path} is no regular file; {AGAIN}")
            if facts.st_size > max_bytes:
                raise BundleError(f"{path} has {facts.st_size:,} bytes; allowed: at most {max_bytes:,}; {AGAIN}")
            return opened.read(facts.st_size)
    except OSError as error:
        raise BundleError(
            f"{path.parent} is incomplete: {path.name} cannot be read ({error.strerror}); {AGAIN}"
        ) from error


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object as other languages would: UTF-8, no key twice, no NaN, not nested deeper than `MAX_DEPTH`.

    Raises:
        BundleError: it is none.
    """
    try:
        values = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
        _check_depth(values)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BundleError(f"{name} is no valid JSON ({said}); allowed: JSON in UTF-8; {AGAIN}") from error
    if not isinstance(values, dict):
        raise BundleError(f"{name} holds a {type(values).__name__}; allowed: a JSON object; {AGAIN}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands in an object twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(MAX_DEPTH):
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [value for values in inside for value in values]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
