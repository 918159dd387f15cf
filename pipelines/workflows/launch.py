"""A search from the command line: Ray starts while the space is read, its data prepared and its backbone loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from cluster.profile import Profile
from pipelines.cohorts.crew import starting_crew
from pipelines.data.source_layout import check_source
from pipelines.workspace import Workspace
from search_spaces.loader import load_fixed_space, load_space

if TYPE_CHECKING:
    from pipelines.planning.plan import Prepared
    from pipelines.search.search import Finished


def launch(
    name: str,
    overrides: Sequence[str],
    console: Console,
    *,
    tier: str | None = None,
    fixed: bool = False,
    profile: Profile,
    workspace: Workspace,
    tracking_uri: str | None = None,
    resume: bool = False,
    isolated: bool = False,
    warm_start: bool = False,
) -> "tuple[Prepared, Finished]":
    """Load a space, show its plan, search it, show what came out; `fixed` allows one configuration only.

    Raises whatever is wrong with the space, the data, the backbone, the cluster or the tracking store.
    """
    space = (load_fixed_space if fixed else load_space)(name, overrides, tier)
    check_source(space)
    with starting_crew(profile, workspace, isolated=isolated, resume=resume) as crew_for:
        # These imports take seconds, and Ray starts meanwhile.
        from pipelines.data.bar import progress_bar
        from pipelines.planning.plan import prepare_search
        from pipelines.search.history import warmed
        from pipelines.search.search import run_search
        from pipelines.tracking.tracker import Tracker
        from pipelines.workflows import show

        crew = crew_for(space)
        with progress_bar(console) as progress:
            ready = prepare_search(space, workspace, progress)
        if warm_start or resume:
            tracker = Tracker.of(workspace, tracking_uri)
            ready = warmed(ready, workspace, tracker, resume=resume)
        show.show_plan(ready, console)
        finished = run_search(ready, crew, workspace=workspace, tracking_uri=tracking_uri, resume=resume)
    show.show_finished(finished, workspace, ready, console)
    return ready, finished
