"""Checking that every image decodes."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from utuning.data.decode import decode_rgb
from utuning.data.examples import Source
from utuning.data.splitting import Record
from utuning.errors import DataError


def check_all(
    sources: Sequence[Source], skip_corrupt: bool, progress: Callable[[int], None] | None
) -> Iterator[Record | None]:
    """Yield a record for each source in order, or None for a corrupt one that is skipped."""
    # Decoding leaves the interpreter lock, so that threads use all cores.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        results = pool.map(lambda source: _check(source, skip_corrupt), sources)
        for done, record in enumerate(results, start=1):
            if progress:
                progress(done)
            yield record
    finally:
        pool.shutdown(cancel_futures=True)


def _check(source: Source, skip_corrupt: bool) -> Record | None:
    data = source.data
    try:
        decode_rgb(data, source.path)
    except DataError:
        if skip_corrupt:
            return None
        raise
    return Record(
        path=source.path,
        label=source.label,
        split=source.split,
        digest=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
