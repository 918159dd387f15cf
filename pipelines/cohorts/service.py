"""The cohort service: Tune's trials ask it for epochs, worker groups ask it for cohorts and their rounds.

One asynchronous actor for a search. It seats each trial in a cohort of its cohort key, and runs worker groups, which
take cohorts (`groups.py`). The first group may start before anything is known of the search: its processes take
longest, and the driver has its own things to read.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from pipelines.cohorts.group_run import free_what_was_left, run_group
from pipelines.cohorts.groups import Groups, Work
from pipelines.cohorts.progress import PATH, ProgressStore
from pipelines.cohorts.roster import Joining, Report, Round
from pipelines.cohorts.shared import Shared
from pipelines.cohorts.worker_group import WorkerGroup
from utuning.configs import TrialConfig


class CohortService:
    """The actor.

    Args:
        isolated: whether every trial has a group of its own.
    """

    _group: WorkerGroup

    def __init__(self, *, isolated: bool) -> None:
        self._isolated = isolated
        # A service that is started again must not meet the state of the groups that it had before.
        self._groups = Groups(f"{time.time_ns():x}", self._start, isolated)
        self._shared: Shared | None = None
        self._known = asyncio.Event()
        # Takes seconds, which the first group would wait for.
        threading.Thread(target=import_module, args=("pipelines.cohorts.lean_trainer",), daemon=True).start()

    async def warm(self, group: WorkerGroup) -> None:
        """Start the group that the first trial will want."""
        self._group = group
        if not self._groups.running:
            self._groups.begin()

    async def open(self, shared: Shared) -> None:
        """Learn what the search shares. Every trial says it: a service that was started again knows nothing."""
        self._shared, self._group = shared, shared.group
        self._groups.most = shared.group.layout.num_cohorts
        self._known.set()

    async def next_epoch(
        self, seat: str, member_id: str, trial: Mapping[str, Any], epoch: int, start: str | None
    ) -> Report:
        """One epoch more of a trial that knows of its first `epoch` ones.

        The first call gives it a seat. It goes on from its last saved epoch, whose report it gets first if it has not
        seen it, or from `start`: another member's saved epoch.
        """
        assert self._shared is not None, "a trial opens the service first"
        cohort = self._groups.seated(seat)
        if cohort is None:
            latest = None if start else ProgressStore(self._shared.members).latest(member_id)
            if latest is not None and latest["epoch"] > epoch:
                return latest
            start = latest[PATH] if latest else start
        joining = Joining(seat=seat, member_id=member_id, trial=trial, path=start)
        if cohort is None:
            key = TrialConfig.from_dict(trial).cohort_key + (f"-{member_id}" if self._isolated else "")
            cohort = self._groups.seat(joining, key, self._shared.max_members)
        await self._groups.arrange()
        return await cohort.roster.next_epoch(joining, epoch)

    async def leave(self, seat: str) -> None:
        """A trial is over, or begins anew."""
        if (cohort := self._groups.seated(seat)) is not None:
            await cohort.roster.leave(seat)
        await self._groups.arrange()

    async def runs(self, group: str) -> bool:
        """Whether this is a group of this service, and not of one that was lost."""
        return group in self._groups.running

    async def shared(self, group: str) -> Shared | None:
        """What all cohorts share, once a trial has said it; None if the group is over before that."""
        if not self._groups.came(group):
            return None
        await self._known.wait()
        return None if self._groups.closed else self._shared

    async def work(self, group: str) -> Work | None:
        """What a group's workers train next; None says that they are no longer needed."""
        return await self._groups.work(group)

    async def next_round(self, name: str) -> Round | None:
        """What a cohort's workers do next; None says that it is over."""
        cohort = self._groups.named(name)
        return None if cohort is None else await cohort.roster.next_round()

    async def deliver(self, name: str, reports: Mapping[str, Report]) -> None:
        """What came out of a round, by seat."""
        if (cohort := self._groups.named(name)) is not None:
            await cohort.roster.deliver(reports)
            await self._groups.arrange()

    async def close(self) -> None:
        """End all cohorts, and wait until the resources of their groups are free."""
        closing = asyncio.ensure_future(self._groups.close())
        self._known.set()
        await closing

    def _start(self, name: str) -> None:
        if not self._groups.running:
            free_what_was_left(self._group)
        # Ray Train's `fit` blocks until the group has ended.
        arguments = (name, asyncio.get_running_loop(), _own_handle())
        threading.Thread(target=self._run, args=arguments, daemon=True).start()

    def _run(self, name: str, loop: asyncio.AbstractEventLoop, service: Any) -> None:
        """Run a worker group to its end, in a thread."""
        error: str | None = None
        try:
            run_group(self._group, name, service)
        except BaseException as raised:
            error = f"the cohort's workers failed: {raised}"
        asyncio.run_coroutine_threadsafe(self._groups.ended(name, error), loop)


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
