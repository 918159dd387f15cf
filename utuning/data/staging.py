"""Where shards are written until a data set is complete, so that nobody reads an incomplete one."""

import glob
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from utuning.data.atomic import publish, writing_folder
from utuning.data.faults import fault
from utuning.data.info import INFO_FILE
from utuning.data.places import Place
from utuning.errors import StoreError


@contextmanager
def staging(to: Place, key: str | None, names: Collection[str]) -> Iterator[Place]:
    """Yield the place to write to, and publish it at the end.

    On this machine it is a folder beside the target, renamed at the end. In an object store, where nothing can be
    renamed, it is the target itself: it is no data set until its description is there, which is written last.

    Args:
        to: the target.
        key: what the shards are part of, if they may be used again by a later call; they stay when the process is
            stopped or dies, and are removed after an error.
        names: the files that will be there; others are removed.
    """
    if to.local is None:
        with _object_store(to, names):
            yield to
        return
    with writing_folder(to.local, key) as partial:
        (partial / "data").mkdir(exist_ok=True)
        yield Place.of(partial)
        publish(partial, to.local)


def remove_stale(to: Path, key: str) -> None:
    """Remove what earlier calls for the same target left of other data; the caller holds the target's lock."""
    for partial in to.parent.glob(f".{glob.escape(to.name)}.partial-*"):
        if not partial.name.endswith(f"-{key}"):
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _object_store(to: Place, names: Collection[str]) -> Iterator[None]:
    try:
        there = to.files()
        # The description goes first and comes last: without it, there is no data set.
        for name in sorted(there.keys() - set(names), key=lambda name: name != INFO_FILE):
            to.remove(name)
        yield
    except OSError as error:
        raise fault(
            f"Writing to {str(to)!r} failed ({error}); it is no data set yet",
            "an object store that can be reached, with the credentials to write there",
            "call again to go on: shards that are complete there are not written again",
            StoreError,
        ) from error
