"""Launching: plan, search, train."""

from pipelines.commands.options import (
    HOME,
    Ahead,
    Cluster,
    Home,
    Isolated,
    Overrides,
    Resume,
    Space,
    Tier,
    Tracking,
    WarmStart,
    Workers,
    console,
)
from pipelines.workspace import Workspace


def plan(
    space: Space,
    overrides: Overrides = None,
    tier: Tier = None,
    cluster: Cluster = "local",
    num_workers: Workers = None,
    ahead: Ahead = False,
    warm_start: WarmStart = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Show what a search would do and what it would cost, without doing it.

    Example: utuning plan cub200 --tier small --ahead
    """
    from cluster.profile import load_profile
    from pipelines.data.source_layout import check_source
    from pipelines.planning import forecast, plan
    from pipelines.workflows import show
    from search_spaces.loader import load_space

    profile, workspace, terminal = load_profile(cluster, num_workers), Workspace(home), console()
    searched = load_space(space, overrides or (), tier)
    if ahead:
        from pipelines.planning.ahead import look_ahead

        show.show_ahead(searched, look_ahead(searched, profile), terminal)
        return
    check_source(searched)
    ready = plan.prepare_search(searched, workspace)
    if warm_start:
        from pipelines.search.history import warmed
        from pipelines.tracking.tracker import Tracker

        tracker = Tracker.of(workspace, tracking_uri)
        ready = warmed(ready, workspace, tracker, resume=False)
    show.show_plan(ready, terminal)
    found = forecast.forecast(ready, profile, *forecast.stand_in(profile))
    show.show_forecast(found, terminal)
    forecast.remember(found, workspace.prediction(plan.space_digest(ready)))


def search(
    space: Space,
    overrides: Overrides = None,
    tier: Tier = None,
    cluster: Cluster = "local",
    num_workers: Workers = None,
    resume: Resume = False,
    isolated: Isolated = False,
    warm_start: WarmStart = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Search a space; the best trial on val becomes the champion.

    Example: utuning search demo budget.num_trials=4 --cluster local
    """
    from cluster.profile import load_profile
    from pipelines.workflows.launch import launch

    launch(
        space,
        overrides or (),
        console(),
        tier=tier,
        profile=load_profile(cluster, num_workers),
        workspace=Workspace(home),
        tracking_uri=tracking_uri,
        resume=resume,
        isolated=isolated,
        warm_start=warm_start,
    )


def train(
    space: Space,
    overrides: Overrides = None,
    tier: Tier = None,
    cluster: Cluster = "local",
    num_workers: Workers = None,
    resume: Resume = False,
    isolated: Isolated = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Train one configuration of a space: every searched value must be fixed by an override.

    Example: utuning train demo 'tuners=[{method: p_adapter, ops: [attn, mlp], bottleneck_dim: 8}]' train.lr=5e-3
    """
    from cluster.profile import load_profile
    from pipelines.workflows.launch import launch

    launch(
        space,
        overrides or (),
        console(),
        tier=tier,
        fixed=True,
        profile=load_profile(cluster, num_workers),
        workspace=Workspace(home),
        tracking_uri=tracking_uri,
        resume=resume,
        isolated=isolated,
    )
