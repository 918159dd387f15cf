"""Between a trial's supervisor and its workers: reports come up, leave to train another epoch goes down.

Workers wait at the gate after every epoch, so that a trial which the scheduler stops ends by itself: its Ray Train run
finishes as usual and gives its resources back. Killing it instead would leave them to Ray's cleaner, which needs the
State API and can hang the search without it. This module imports no ray: its process is to start quickly.
"""

import asyncio
from collections.abc import Mapping
from typing import Any


class Gate:
    """An asynchronous actor, one for each running trial."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        self._granted = asyncio.Condition()
        self._last_epoch_allowed = 1
        self._open = True

    async def report(self, metrics: Mapping[str, Any]) -> None:
        """Hand an epoch's metrics to the supervisor."""
        await self._reports.put(metrics)

    async def close(self) -> None:
        """Say that no more reports will come."""
        await self._reports.put(None)

    async def next_report(self) -> Mapping[str, Any] | None:
        """Wait for an epoch's metrics; None means that there are no more."""
        return await self._reports.get()

    async def allow(self, epoch: int) -> None:
        """Let the workers train up to this epoch, counted from 1."""
        async with self._granted:
            self._last_epoch_allowed = max(epoch, self._last_epoch_allowed)
            self._granted.notify_all()

    async def stop(self) -> None:
        """Let the workers end after the epoch they are in."""
        async with self._granted:
            self._open = False
            self._granted.notify_all()

    async def may_train(self, epoch: int) -> bool:
        """Wait for leave to train this epoch; False means that the trial is over."""
        async with self._granted:
            await self._granted.wait_for(lambda: not self._open or epoch <= self._last_epoch_allowed)
            return self._open
