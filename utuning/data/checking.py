"""Checking that every image decodes, and remembering which ones did."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from utuning.data.decode import decode_rgb
from utuning.data.encode import read_shrunk, shrunk
from utuning.data.examples import Checked, Packed, Source, sha256
from utuning.data.faults import Progress
from utuning.errors import DataError

_AHEAD = 64
_Facts = tuple[str, str, int]
"""Digest of what came; digest and bytes of what is stored."""
_Work = Callable[[Source], _Facts | None]


def check_all(
    sources: Sequence[Source],
    skip_corrupt: bool,
    progress: Progress | None,
    journal: Path | None = None,
    shorter_side: int | None = None,
) -> Iterator[Checked | None]:
    """Yield each source as checked, in order, or None for a corrupt one that is skipped.

    Images that `journal` names are not read again; those that are checked now are added to it. Whatever became of them
    since is noticed when they are read again to be written. With a `shorter_side` in pixels, `encode.shrunk` decides
    what is stored; a journal is of one such size.
    """
    known = {} if journal is None else _read_journal(journal)
    # Decoding leaves the interpreter lock, so that threads use all cores.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with open(journal or os.devnull, "a", buffering=1, encoding="utf-8") as log:
            check = partial(_facts, skip_corrupt=skip_corrupt, shorter_side=shorter_side)
            found = _in_order(pool, lambda source: known.get(_key(source)) or check(source), sources)
            for done, (source, facts) in enumerate(zip(sources, found, strict=True), start=1):
                if facts and _key(source) not in known:
                    log.write(json.dumps([_key(source), facts]) + "\n")
                if progress:
                    progress("checking", done, len(sources))
                yield _checked(source, facts, shorter_side)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: Executor, work: _Work, items: Iterable[Source]) -> Iterator[_Facts | None]:
    """Map in parallel, a few items ahead of the reader, so that waiting results do not pile up."""
    ahead: deque[Future[_Facts | None]] = deque()
    for item in items:
        ahead.append(pool.submit(work, item))
        if len(ahead) >= _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _facts(source: Source, skip_corrupt: bool, shorter_side: int | None) -> _Facts | None:
    data = source.data
    try:
        image = decode_rgb(data, source.path)
    except DataError:
        if skip_corrupt:
            return None
        raise
    stored = data if shorter_side is None else shrunk(image, data, shorter_side)
    return sha256(data), sha256(stored), len(stored)


def _checked(source: Source, facts: _Facts | None, shorter_side: int | None) -> Checked | None:
    if facts is None:
        return None
    original, digest, size = facts
    named = {"path": source.path, "label": source.label, "split": source.split}
    if shorter_side is not None:
        # Shrunk again when it is written: nothing is held meanwhile.
        source = Packed(**named, read=partial(_shrunk_again, source, shorter_side))
    return Checked(**named, digest=digest, size=size, original=original, source=source)


def _shrunk_again(source: Source, shorter_side: int) -> bytes:
    return read_shrunk(source.data, source.path, shorter_side)


def _key(source: Source) -> str:
    return f"{source.split}/{source.path}"


def _read_journal(file: Path) -> dict[str, _Facts]:
    known: dict[str, _Facts] = {}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    for line in lines:
        # The last line may have been cut off when the process died.
        if line.endswith("\n"):
            key, (original, digest, size) = json.loads(line)
            known[key] = (original, digest, size)
    if lines and not lines[-1].endswith("\n"):
        file.write_text("".join(lines[:-1]), encoding="utf-8")
    return known
