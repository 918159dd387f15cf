"""The cohort service: Tune's trials ask it for epochs, cohorts' worker groups ask it for rounds.

One asynchronous actor for a search. It seats each trial in a cohort of its cohort key, starts a worker group for a
cohort that has none, and ends one that nobody needs when another waits for its resources.
"""

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pipelines.progress import PATH, ProgressStore
from pipelines.roster import Joining, Report, Roster, Round
from pipelines.worker_group import WorkerGroup
from utuning.configs import TrialConfig


@dataclass
class _Cohort:
    name: str
    key: str
    template: Mapping[str, Any]
    roster: Roster = field(default_factory=Roster)
    started: bool = False
    attempts: int = 0


class CohortService:
    """The actor.

    Args:
        group: the pickled `WorkerGroup` of every cohort.
        name: a prefix of the groups' names, new for every start of a search.
        max_members: how many members one may have.
        isolated: whether every trial has a group of its own.
    """

    def __init__(self, group: bytes, *, name: str, max_members: int, isolated: bool) -> None:
        self._group: WorkerGroup = pickle.loads(group)
        self._name, self._slots = name, self._group.layout.num_cohorts
        self._max_members, self._isolated = max_members, isolated
        self._store = ProgressStore(self._group.shared.members)
        self._cohorts: dict[str, _Cohort] = {}
        self._numbers = count()

    async def next_epoch(
        self, seat: str, member_id: str, trial: Mapping[str, Any], epoch: int, start: str | None
    ) -> Report:
        """One epoch more of a trial that knows of its first `epoch` ones.

        The first call gives it a seat. It goes on from its last saved epoch, whose report it gets first if it has not
        seen it, or from `start`: another member's saved epoch.
        """
        cohort = self._seated(seat)
        if cohort is None:
            latest = None if start else self._store.latest(member_id)
            if latest is not None and latest["epoch"] > epoch:
                return latest
            start = latest[PATH] if latest else start
            cohort = self._cohort_for(trial, member_id)
        joining = Joining(seat=seat, member_id=member_id, trial=trial, path=start)
        asked = asyncio.ensure_future(cohort.roster.next_epoch(joining, epoch))
        await asyncio.sleep(0)  # it takes its seat
        self._start_what_fits()
        await self._make_room()
        return await asked

    async def warm(self, trial: Mapping[str, Any]) -> None:
        """Start the group that a trial will want, while Tune is still starting the trial's process."""
        if not self._cohorts:
            self._cohort_for(trial, TrialConfig.from_dict(trial).trial_id)
            self._start_what_fits()

    async def leave(self, seat: str) -> None:
        """A trial is over, or begins anew."""
        if (cohort := self._seated(seat)) is not None:
            await cohort.roster.leave(seat)
        await self._make_room()

    async def attach(self, name: str) -> int:
        """A cohort's workers begin; returns how often they had begun before, and were lost."""
        cohort = self._cohorts.get(name)
        if cohort is None:
            return 0
        cohort.attempts += 1
        return cohort.attempts - 1

    async def next_round(self, name: str) -> Round | None:
        """What a cohort's workers do next; None says that they are no longer needed."""
        cohort = self._cohorts.get(name)
        return None if cohort is None else await cohort.roster.next_round()

    async def deliver(self, name: str, reports: Mapping[str, Report]) -> None:
        """What came out of a round, by seat."""
        if (cohort := self._cohorts.get(name)) is not None:
            await cohort.roster.deliver(reports)
            await self._make_room()

    async def close(self) -> None:
        """End all cohorts, and wait until their resources are free."""
        for cohort in list(self._cohorts.values()):
            await cohort.roster.close()
        while any(cohort.started for cohort in self._cohorts.values()):
            await asyncio.sleep(0.05)

    def _seated(self, seat: str) -> _Cohort | None:
        return next((cohort for cohort in self._cohorts.values() if seat in cohort.roster), None)

    def _cohort_for(self, trial: Mapping[str, Any], member_id: str) -> _Cohort:
        """The first cohort of the trial's key that has a seat free, or a new one."""
        key = TrialConfig.from_dict(trial).cohort_key + (f"-{member_id}" if self._isolated else "")
        for cohort in self._cohorts.values():
            if cohort.key == key and not cohort.roster.closed and len(cohort.roster) < self._max_members:
                return cohort
        name = f"{self._name}-{next(self._numbers)}"
        self._cohorts[name] = _Cohort(name, key, trial)
        return self._cohorts[name]

    async def _make_room(self) -> None:
        """End cohorts without members if others wait."""
        waiting = [cohort for cohort in self._cohorts.values() if not cohort.started]
        for cohort in [each for each in waiting if len(each.roster) == 0]:
            waiting.remove(cohort)
            del self._cohorts[cohort.name]
        idle = [cohort for cohort in self._cohorts.values() if cohort.started and len(cohort.roster) == 0]
        for cohort, _ in zip(idle, waiting, strict=False):
            await cohort.roster.close()

    def _start_what_fits(self) -> None:
        running = sum(cohort.started for cohort in self._cohorts.values())
        if running == 0:
            self._group.free_what_was_left()
        waiting = [cohort for cohort in self._cohorts.values() if not cohort.started]
        for cohort in waiting[: max(0, self._slots - running)]:
            cohort.started = True
            # Ray Train's `fit` blocks until the group has ended.
            arguments = (cohort, asyncio.get_running_loop(), _own_handle())
            threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, cohort: _Cohort, loop: asyncio.AbstractEventLoop, service: Any) -> None:
        """Run a worker group to its end, in a thread."""
        error: str | None = None
        try:
            self._group.run(cohort.name, cohort.template, service)
        except BaseException as raised:
            error = f"the cohort's workers failed: {raised}"
        asyncio.run_coroutine_threadsafe(self._ended(cohort, error), loop)

    async def _ended(self, cohort: _Cohort, error: str | None) -> None:
        del self._cohorts[cohort.name]
        cohort.started = False
        await cohort.roster.close(error)
        self._start_what_fits()


@contextmanager
def cohort_service(group: WorkerGroup, search_id: str, *, max_members: int, isolated: bool) -> Iterator[Any]:
    """Start the service of a search, and end it with all its groups."""
    import ray

    actor = ray.remote(num_cpus=0, max_restarts=2, max_concurrency=10_000)(CohortService)
    # A search that goes on must not meet the state of the groups that it had before.
    name = f"{search_id}-{time.time_ns():x}"
    # Pickled: an actor that can restart should have no references as arguments. The driver keeps them alive.
    service = actor.remote(ray.cloudpickle.dumps(group), name=name, max_members=max_members, isolated=isolated)
    try:
        yield service
    finally:
        ray.get(service.close.remote())
        ray.kill(service)


def _own_handle() -> Any:
    import ray

    return ray.get_runtime_context().current_actor
