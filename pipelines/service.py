"""The cohort service: Tune's trials ask it for epochs, cohorts' worker groups ask it for rounds.

One asynchronous actor for a search. It seats each trial in a cohort of its cohort key, starts a worker group for a
cohort that has none, and ends one that nobody needs when another waits for its resources. The first group may start
before anything is known of the search: its processes take longest, and the driver has its own things to read.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from typing import Any

from pipelines.progress import PATH, ProgressStore
from pipelines.roster import Joining, Report, Roster, Round
from pipelines.shared import Shared, Work
from pipelines.worker_group import WorkerGroup
from utuning.configs import TrialConfig


@dataclass
class _Cohort:
    """A cohort; without a key, as long as no trial has taken its first seat."""

    name: str
    key: str | None = None
    work: "asyncio.Future[Work | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    roster: Roster = field(default_factory=Roster)
    started: bool = False
    attempts: int = 0
    begun: float = 0.0
    start_s: float = 0.0

    async def close(self, error: str | None = None) -> None:
        if not self.work.done():
            self.work.set_result(None)
        await self.roster.close(error)


class CohortService:
    """The actor.

    Args:
        isolated: whether every trial has a group of its own.
    """

    _group: WorkerGroup
    _shared: Shared

    def __init__(self, *, isolated: bool) -> None:
        self._isolated = isolated
        self._cohorts: dict[str, _Cohort] = {}
        self._numbers = count()
        # A service that is started again must not meet the state of the groups that it had before.
        self._name = f"{time.time_ns():x}"
        # Takes seconds, which the first group would wait for.
        threading.Thread(target=import_module, args=("ray.train.torch",), daemon=True).start()

    async def warm(self, group: WorkerGroup) -> None:
        """Start the group that the first trial will want."""
        self._group = group
        if not self._cohorts:
            self._new_cohort()
            self._start_what_fits()

    async def open(self, shared: Shared) -> None:
        """Learn what the search shares. Every trial says it: a service that was started again knows nothing."""
        self._shared, self._group = shared, shared.group

    async def next_epoch(
        self, seat: str, member_id: str, trial: Mapping[str, Any], epoch: int, start: str | None
    ) -> Report:
        """One epoch more of a trial that knows of its first `epoch` ones.

        The first call gives it a seat. It goes on from its last saved epoch, whose report it gets first if it has not
        seen it, or from `start`: another member's saved epoch.
        """
        cohort = self._seated(seat)
        if cohort is None:
            latest = None if start else ProgressStore(self._shared.members).latest(member_id)
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

    async def leave(self, seat: str) -> None:
        """A trial is over, or begins anew."""
        if (cohort := self._seated(seat)) is not None:
            await cohort.roster.leave(seat)
        await self._make_room()

    async def work(self, name: str) -> Work | None:
        """What a cohort's workers train, once a trial has joined it; None if it is over before that."""
        cohort = self._cohorts.get(name)
        if cohort is None:
            return None
        cohort.start_s = cohort.start_s or time.monotonic() - cohort.begun
        return await asyncio.shield(cohort.work)

    async def attach(self, name: str) -> tuple[int, float]:
        """A cohort's workers begin; returns how often they had begun before and were lost, and how long they took."""
        cohort = self._cohorts.get(name)
        if cohort is None:
            return 0, 0.0
        cohort.attempts += 1
        return cohort.attempts - 1, cohort.start_s

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
            await cohort.close()
        while any(cohort.started for cohort in self._cohorts.values()):
            await asyncio.sleep(0.05)

    def _seated(self, seat: str) -> _Cohort | None:
        return next((cohort for cohort in self._cohorts.values() if seat in cohort.roster), None)

    def _cohort_for(self, trial: Mapping[str, Any], member_id: str) -> _Cohort:
        """A cohort of the trial's key with a seat free, one that waits for its first trial, or a new one."""
        key = TrialConfig.from_dict(trial).cohort_key + (f"-{member_id}" if self._isolated else "")
        free = [cohort for cohort in self._cohorts.values() if not cohort.roster.closed]
        same = [each for each in free if each.key == key and len(each.roster) < self._shared.max_members]
        cohort = next(iter([*same, *(each for each in free if each.key is None)]), None) or self._new_cohort()
        if cohort.key is None:
            cohort.key = key
            cohort.work.set_result(Work(template=trial, shared=self._shared))
        return cohort

    def _new_cohort(self) -> _Cohort:
        name = f"{self._name}-{next(self._numbers)}"
        self._cohorts[name] = _Cohort(name)
        return self._cohorts[name]

    async def _make_room(self) -> None:
        """End cohorts without members if others wait."""
        waiting = [cohort for cohort in self._cohorts.values() if not cohort.started]
        for cohort in [each for each in waiting if len(each.roster) == 0]:
            waiting.remove(cohort)
            del self._cohorts[cohort.name]
        idle = [cohort for cohort in self._cohorts.values() if cohort.started and len(cohort.roster) == 0]
        for cohort, _ in zip(idle, waiting, strict=False):
            await cohort.close()

    def _start_what_fits(self) -> None:
        running = sum(cohort.started for cohort in self._cohorts.values())
        if running == 0:
            self._group.free_what_was_left()
        waiting = [cohort for cohort in self._cohorts.values() if not cohort.started]
        for cohort in waiting[: max(0, self._group.layout.num_cohorts - running)]:
            cohort.started, cohort.begun = True, time.monotonic()
            # Ray Train's `fit` blocks until the group has ended.
            arguments = (cohort, asyncio.get_running_loop(), _own_handle())
            threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, cohort: _Cohort, loop: asyncio.AbstractEventLoop, service: Any) -> None:
        """Run a worker group to its end, in a thread."""
        error: str | None = None
        try:
            self._group.run(cohort.name, service)
        except BaseException as raised:
            error = f"the cohort's workers failed: {raised}"
        asyncio.run_coroutine_threadsafe(self._ended(cohort, error), loop)

    async def _ended(self, cohort: _Cohort, error: str | None) -> None:
        del self._cohorts[cohort.name]
        cohort.started = False
        await cohort.close(error)
        self._start_what_fits()


@contextmanager
def cohort_service(*, isolated: bool) -> Iterator[Any]:
    """Start a search's service, and end it with all its groups; when something fails they are killed."""
    import ray

    service = ray.remote(num_cpus=0, max_restarts=2, max_concurrency=10_000)(CohortService).remote(isolated=isolated)
    try:
        yield service
        ray.get(service.close.remote())
    finally:
        ray.kill(service)


def _own_handle() -> Any:
    import ray

    return ray.get_runtime_context().current_actor
