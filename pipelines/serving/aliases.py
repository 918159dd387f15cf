"""Reload when an alias moves: the new version is read and checked beside the old one, then takes its place."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.serving.metrics import Metrics
from pipelines.serving.shelf import Shelf
from pipelines.serving.sources import Found, Source
from utuning.errors import UTuningError

log = logging.getLogger("utuning.serving")


@dataclass
class Watched:
    """A name on the shelf, where its bundles come from, and which one was taken."""

    slot: str
    source: Source
    found: Found


class Watcher:
    """Looks from time to time where aliases point. A registry that cannot be reached changes nothing."""

    def __init__(self, shelf: Shelf, watched: Sequence[Watched], metrics: Metrics, poll_s: float) -> None:
        self._shelf, self._watched, self._metrics, self._poll_s = shelf, list(watched), metrics, poll_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, on the running event loop."""
        if self._watched:
            self._task = asyncio.get_running_loop().create_task(self._look_for_ever())

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def forget(self, slot: str) -> None:
        """Look no more for this name."""
        self._watched = [each for each in self._watched if each.slot != slot]

    def look(self) -> None:
        """Look once for every name."""
        for watched in tuple(self._watched):
            self._counted(watched, self._reload)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await asyncio.to_thread(self.look)

    def _counted(self, watched: Watched, reload: Callable[[Watched], bool]) -> None:
        try:
            outcome = "reloaded" if reload(watched) else ""
        except UTuningError as error:
            outcome = "failed"
            log.warning("%s stays at version %s: %s", watched.slot, watched.found.version, error)
        except Exception:  # a store's client may raise anything; looking goes on
            outcome = "failed"
            log.exception("%s stays at version %s", watched.slot, watched.found.version)
        if outcome:
            self._metrics.reloads.labels(watched.slot, outcome).inc()

    def _reload(self, watched: Watched) -> bool:
        found = watched.source.find()
        if found == watched.found:
            return False
        bundle = watched.source.fetch(found)
        if watched in self._watched:
            self._shelf.put(watched.slot, bundle, found.version, found.alias)
            watched.found = found
            log.info("%s is now at version %s", watched.slot, found.version)
        return True
