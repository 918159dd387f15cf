"""Ray, the cohort service and the first worker group, started while the driver still reads data and backbone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from cluster.profile import Profile
from pipelines.cohorts.session import Resources, ray_session, set_environment
from pipelines.cohorts.worker_group import WorkerGroup
from pipelines.planning.layouts import layout_of
from pipelines.workspace import Workspace
from search_spaces.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Crew:
    """What runs a search's trials: the cohort service's actor, and what its groups are like.

    `begun` is the monotonic time at which it was asked for.
    """

    service: Any
    group: WorkerGroup
    profile: Profile
    isolated: bool
    begun: float

    def close(self) -> None:
        """End all cohorts; on a cluster, wait until what they held is free."""
        import ray

        closing = self.service.close.remote()
        if not self.group.local:
            ray.get(closing)


@contextmanager
def starting_crew(
    profile: Profile, workspace: Workspace, *, isolated: bool, resume: bool = False
) -> Iterator[Callable[[SearchSpace], Callable[[], Crew]]]:
    """Yield a function that is told the space, and gives one that waits for its crew; at the end nothing of it is left.

    At home Ray starts at once, in a thread, and the first worker group once the space is known. A cluster is joined
    only when the crew is waited for: others want it too, and the search may turn out to be impossible before. So it is
    at home with `resume`, when there may be nothing to go on with, and no group starts before a trial wants it.

    Raises, when the crew is waited for:
        ClusterError: the cluster does not answer, or not even one cohort fits.
    """
    begun = time.monotonic()
    set_environment(profile)
    # Ray's processes end with the thread that started them, so it is left last.
    with ThreadPoolExecutor(1) as thread, ExitStack() as stack:

        @cache
        def join() -> tuple[Resources, Any]:
            resources = stack.enter_context(ray_session(profile))
            from pipelines.cohorts.service import cohort_service

            return resources, stack.enter_context(cohort_service(isolated=isolated))

        def make(space: SearchSpace) -> Crew:
            resources, service = join()
            layout = layout_of(space, profile, resources.cpus, resources.gpus, isolated=isolated)
            group = WorkerGroup(layout, f"{storage_of(profile, workspace)}/groups", profile.address is None)
            if not resume:
                service.warm.remote(group)
            return Crew(service=service, group=group, profile=profile, isolated=isolated, begun=begun)

        if resume or profile.address is not None:
            yield lambda space: cache(partial(make, space))
            return
        thread.submit(join)
        try:
            yield lambda space: thread.submit(make, space).result
        finally:
            thread.submit(int).result()  # what was begun must be there to be ended


def storage_of(profile: Profile, workspace: Workspace) -> str:
    """The folder of all searches' members and groups."""
    return profile.storage or str(workspace.searches)
