"""Checking that every image decodes, and remembering which ones did."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from utuning.data.decode import decode_rgb
from utuning.data.examples import Checked, Source, sha256
from utuning.data.faults import Progress
from utuning.errors import DataError

_AHEAD = 64
_Facts = tuple[str, int]
_Work = Callable[[Source], _Facts | None]


def check_all(
    sources: Sequence[Source],
    skip_corrupt: bool,
    progress: Progress | None,
    journal: Path | None = None,
) -> Iterator[Checked | None]:
    """Yield each source as checked, in order, or None for a corrupt one that is skipped.

    Images that `journal` names are not read again; those that are checked now are added to it. Whatever became of them
    since is noticed when they are read again to be written.
    """
    known = {} if journal is None else _read_journal(journal)
    # Decoding leaves the interpreter lock, so that threads use all cores.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with open(journal or os.devnull, "a", buffering=1, encoding="utf-8") as log:
            found = _in_order(pool, lambda source: known.get(_key(source)) or _facts(source, skip_corrupt), sources)
            for done, (source, facts) in enumerate(zip(sources, found, strict=True), start=1):
                if facts and _key(source) not in known:
                    log.write(json.dumps([_key(source), facts]) + "\n")
                if progress:
                    progress("checking", done, len(sources))
                yield _checked(source, facts)
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


def _facts(source: Source, skip_corrupt: bool) -> _Facts | None:
    data = source.data
    try:
        decode_rgb(data, source.path)
    except DataError:
        if skip_corrupt:
            return None
        raise
    return sha256(data), len(data)


def _checked(source: Source, facts: _Facts | None) -> Checked | None:
    if facts is None:
        return None
    digest, size = facts
    return Checked(path=source.path, label=source.label, split=source.split, digest=digest, size=size, source=source)


def _key(source: Source) -> str:
    return f"{source.split}/{source.path}"


def _read_journal(file: Path) -> dict[str, _Facts]:
    known: dict[str, _Facts] = {}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    for line in lines:
        # The last line may have been cut off when the process died.
        if line.endswith("\n"):
            key, (digest, size) = json.loads(line)
            known[key] = (digest, size)
    if lines and not lines[-1].endswith("\n"):
        file.write_text("".join(lines[:-1]), encoding="utf-8")
    return known
