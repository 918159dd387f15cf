"""Who is in a cohort, and when its next round begins: a round trains every member that asks for one more epoch.

Members are Tune's trials. They come and go between rounds. A round waits for all of them, but not for ever: one that
its scheduler has paused sits out, and keeps its place. This module imports no ray, so its process starts quickly.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from time import monotonic
from typing import Any

from pipelines.cohorts.progress import PATH

Report = dict[str, Any]
ERROR = "error"
"""What a report holds in place of metrics if its member has failed."""
ENDED = "the cohort has ended"
LEFT = "it left its cohort"
"""What those are told who still ask when their seat is given up."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """A member as it is given to the workers: its trial's values, and the saved epoch that it goes on from, if any.

    `number` tells members apart that have had the same seat one after another.
    """

    seat: str
    member_id: str
    trial: Mapping[str, Any]
    path: str | None = None
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Round:
    """All members of a cohort, and the seats of those that train an epoch now."""

    members: tuple[Joining, ...]
    training: frozenset[str]


@dataclass
class _Seat:
    joining: Joining
    asking: "asyncio.Future[Report] | None" = None
    last: Report | None = None


@dataclass
class Roster:
    """The seats of one cohort.

    Args:
        patience_s: how long a round waits for a member that does not ask, once another does.
        settle_s: how long it waits after somebody came or went: others often come and go at the same time.
    """

    patience_s: float = 5.0
    settle_s: float = 0.4
    clock: Callable[[], float] = monotonic
    _seats: dict[str, _Seat] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    closed: bool = False
    _last_change: float = 0.0
    _first_ask: float = 0.0

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, seat: str) -> bool:
        return seat in self._seats

    def sit(self, joining: Joining) -> None:
        """Take a seat, if there is none."""
        if joining.seat not in self._seats:
            self._seats[joining.seat] = _Seat(replace(joining, number=next(self._numbers)))
            self._last_change = self.clock()

    async def next_epoch(self, joining: Joining, known: int | None = None) -> Report:
        """Ask for one more epoch, taking a seat first if there is none; returns its report.

        Who knows of fewer epochs than were reported has lost a report, and gets that one again. Who comes as another
        member than the one that has the seat, takes its place.

        Raises:
            RuntimeError: the cohort is over, or its workers have failed.
        """
        if self.closed:
            raise RuntimeError(ENDED)
        held = self._seats.get(joining.seat)
        if held is not None and held.joining.member_id != joining.member_id:
            await self.leave(joining.seat)
        self.sit(joining)
        seat = self._seats[joining.seat]
        if known is not None and seat.last is not None and seat.last["epoch"] > known:
            return seat.last
        if not any(each.asking for each in self._seats.values()):
            self._first_ask = self.clock()
        asking: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        seat.asking = asking
        await self._notify()
        return await asking

    async def next_round(self) -> Round | None:
        """Wait until a round can begin; None once the cohort is over."""
        async with self._changed:
            while not self.closed:
                if (wait_s := self._wait_s()) <= 0:
                    asking = frozenset(name for name, seat in self._seats.items() if seat.asking)
                    return Round(members=tuple(seat.joining for seat in self._seats.values()), training=asking)
                await self._sleep(wait_s)
        return None

    async def deliver(self, reports: Mapping[str, Report]) -> None:
        """Hand out the reports of a round; who has failed or come to its last epoch gives its seat up."""
        for name, report in reports.items():
            seat = self._seats.get(name)
            if seat is None:
                continue
            seat.joining = replace(seat.joining, path=report.get(PATH, seat.joining.path))
            seat.last = seat.last if ERROR in report else report
            asking, seat.asking = seat.asking, None
            if asking is not None and not asking.done():
                asking.set_result(report)
            if ERROR in report or report["epoch"] == seat.joining.trial["train"]["epochs"]:
                await self.leave(name)
        # Who asked during the round waits for those that were in it.
        self._first_ask = self.clock()

    async def leave(self, seat: str) -> None:
        """Give a seat up, if there is one."""
        left = self._seats.pop(seat, None)
        if left is not None:
            if left.asking is not None and not left.asking.done():
                left.asking.set_result({ERROR: LEFT})
            self._last_change = self.clock()
            await self._notify()

    async def close(self, error: str | None = None) -> None:
        """End the cohort after the round it is in; with an error, those that still ask are told."""
        self.closed = True
        for seat in self._seats.values():
            if seat.asking is not None and not seat.asking.done():
                seat.asking.set_exception(RuntimeError(error or ENDED))
        self._seats.clear()
        await self._notify()

    def _wait_s(self) -> float:
        """Seconds until a round may begin, as far as is known now; infinity if nobody asks."""
        asking = [seat for seat in self._seats.values() if seat.asking]
        if not asking:
            return float("inf")
        settled = self._last_change + self.settle_s
        all_ask = len(asking) == len(self._seats)
        return max(settled, 0.0 if all_ask else self._first_ask + self.patience_s) - self.clock()

    async def _sleep(self, seconds: float) -> None:
        """Wait for a change, at most so long."""
        try:
            await asyncio.wait_for(self._changed.wait(), None if seconds == float("inf") else seconds)
        except TimeoutError:
            return

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
