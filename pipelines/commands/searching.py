"""Launching: plan, search, train."""

from pathlib import Path
from typing import Any

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
    from pipelines import forecast, plan, show
    from search_spaces.loader import load_space

    profile, workspace, terminal = load_profile(cluster, num_workers), Workspace(home), console()
    if ahead:
        from pipelines.ahead import look_ahead

        searched = load_space(space, overrides or (), tier)
        show.show_ahead(searched, look_ahead(searched, profile), terminal)
        return
    ready = plan.prepare_search(load_space(space, overrides or (), tier), workspace)
    if warm_start:
        from pipelines.search_memory import warmed
        from pipelines.tracking import Tracker

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
    options = {
        "tier": tier,
        "tracking_uri": tracking_uri,
        "resume": resume,
        "isolated": isolated,
        "warm_start": warm_start,
    }
    _run(space, overrides, cluster, num_workers, home, **options)


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
    options = {"tier": tier, "tracking_uri": tracking_uri, "resume": resume, "isolated": isolated}
    _run(space, overrides, cluster, num_workers, home, fixed=True, **options)


def _run(
    space: str,
    overrides: list[str] | None,
    cluster: str,
    num_workers: int | None,
    home: Path,
    **options: Any,
) -> None:
    from cluster.profile import load_profile
    from pipelines.launch import launch

    profile = load_profile(cluster, num_workers)
    launch(space, overrides or (), console(), profile=profile, workspace=Workspace(home), **options)
