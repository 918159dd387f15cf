"""Which worker group trains which cohort: cohorts wait for a group, and a group takes one after another.

A group's workers stay while its cohorts change: processes, process group and backbone are the same for a whole search.
This module imports no ray, so its process starts quickly.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any

from pipelines.cohorts.roster import Joining, Roster


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a group's workers train: trials like the template, which differ in nothing that a cohort shares.

    Workers that had begun with this cohort were `lost` so often; their group took `start_s` to start.
    """

    cohort: str
    template: Mapping[str, Any]
    lost: int
    start_s: float


@dataclass
class Cohort:
    """Trials of one key; over once its roster is closed."""

    name: str
    key: str
    template: Mapping[str, Any]
    roster: Roster
    lost: int = 0


@dataclass
class Group:
    """A worker group that runs, and the cohort that it took last."""

    begun: float
    start_s: float = 0.0
    cohort: Cohort | None = None


@dataclass
class Groups:
    """The cohorts of a search, and the groups that run.

    Args:
        name: what names of groups and cohorts begin with.
        start: starts a group of this name; whoever runs it says when it has `ended`.
        isolated: whether a group ends with its first cohort.
        most: how many may run side by side.
        make_roster: makes the roster of a new cohort.
    """

    name: str
    start: Callable[[str], None]
    isolated: bool
    most: int = 1
    make_roster: Callable[[], Roster] = Roster
    clock: Callable[[], float] = monotonic
    running: dict[str, Group] = field(default_factory=dict)
    waiting: list[Cohort] = field(default_factory=list)
    closed: bool = False
    _numbers: "count[int]" = field(default_factory=count)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def cohorts(self) -> list[Cohort]:
        """Those with a group, then those that wait for one."""
        return [*(group.cohort for group in self.running.values() if group.cohort), *self.waiting]

    def named(self, name: str) -> Cohort | None:
        """The cohort of this name, if it is known."""
        return next((cohort for cohort in self.cohorts if cohort.name == name), None)

    def seated(self, seat: str) -> Cohort | None:
        """The cohort in which somebody has this seat."""
        return next((cohort for cohort in self.cohorts if seat in cohort.roster), None)

    def seat(self, joining: Joining, key: str, max_members: int) -> Cohort:
        """Give a member a seat in a cohort of its key that has one free, or in a new one."""
        open_ = [each for each in self.cohorts if each.key == key and not each.roster.closed]
        cohort = next((each for each in open_ if len(each.roster) < max_members), None)
        if cohort is None:
            cohort = Cohort(self._new_name(), key, joining.trial, self.make_roster())
            self.waiting.append(cohort)
        cohort.roster.sit(joining)
        return cohort

    def begin(self) -> None:
        """Start a group; it takes the first cohort that waits."""
        name = self._new_name()
        self.start(name)
        self.running[name] = Group(begun=self.clock())

    async def arrange(self) -> None:
        """Find groups for the cohorts that wait: close cohorts without members, and start what has room."""
        self.waiting = [cohort for cohort in self.waiting if len(cohort.roster)]
        while self._missing() > 0 and (idle := self._idle()) is not None:
            await idle.roster.close()
        while self._missing() > 0 and len(self.running) < self.most:
            self.begin()
        await self._notify()

    def came(self, name: str) -> bool:
        """A group's workers have started; whether it is known."""
        group = self.running.get(name)
        if group is not None:
            group.start_s = group.start_s or self.clock() - group.begun
        return group is not None

    async def work(self, name: str) -> Work | None:
        """What a group's first worker is to train with the others: at its start, and when its cohort is over.

        Waits for a cohort. Who starts again gets the group's cohort again. None ends the group.
        """
        group = self.running.get(name)
        if group is None:
            return None
        if group.cohort is not None and group.cohort.roster.closed:
            if self.isolated:
                return None
            group.cohort = None
        elif group.cohort is not None:
            group.cohort.lost += 1
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or group.cohort or self.waiting)
            if self.closed:
                return None
            # A worker that was killed may have been waiting too.
            cohort = group.cohort = group.cohort or self.waiting.pop(0)
        return Work(cohort=cohort.name, template=cohort.template, lost=cohort.lost, start_s=group.start_s)

    async def ended(self, name: str, error: str | None = None) -> None:
        """A group is over; an error is told to its cohort's members, or to those who would have been the next."""
        group = self.running.pop(name)
        cohort = group.cohort or (self.waiting.pop(0) if error and self.waiting else None)
        if cohort is not None:
            await cohort.roster.close(error)
        await self.arrange()

    async def close(self) -> None:
        """End all cohorts, and wait until no group runs."""
        self.closed = True
        for cohort in self.cohorts:
            await cohort.roster.close()
        await self._notify()
        async with self._changed:
            await self._changed.wait_for(lambda: not self.running)

    def _missing(self) -> int:
        """How many cohorts wait that no group is about to take."""
        taken = (group.cohort for group in self.running.values())
        return len(self.waiting) - sum(each is None or (each.roster.closed and not self.isolated) for each in taken)

    def _idle(self) -> Cohort | None:
        """A cohort that has a group, and no members."""
        taken = (group.cohort for group in self.running.values() if group.cohort)
        return next((each for each in taken if len(each.roster) == 0 and not each.roster.closed), None)

    def _new_name(self) -> str:
        return f"{self.name}-{next(self._numbers)}"

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
