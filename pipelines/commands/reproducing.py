"""Reproducing a row: scored again, or trained again."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import HOME, Cluster, Home, Tracking, Weights, Workers, console
from pipelines.workspace import Workspace


def reproduce(
    row: Annotated[str, typer.Argument(help="SPACE:PLACE on its leaderboard, or a trial id")],
    retrain: Annotated[bool, typer.Option("--retrain", help="train it again instead of scoring its bundle")] = False,
    data: Annotated[
        Path | None, typer.Option(help="the prepared data set; looked for in HOME/data if left out")
    ] = None,
    weights: Weights = None,
    cluster: Cluster = "local",
    num_workers: Workers = None,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Score a row of a leaderboard again from its bundle, or train it again; says whether the result is equal.

    Example: utuning reproduce demo:1 --retrain
    """
    from cluster.profile import load_profile
    from pipelines.tracking.tracker import Tracker
    from pipelines.workflows import reproduce

    profile, workspace, terminal = load_profile(cluster, num_workers), Workspace(home), console()
    tracker = Tracker.of(workspace, tracking_uri)
    found = reproduce.find_row(tracker, row)
    folder = data or reproduce.find_data(workspace, found)
    if retrain:
        equal = reproduce.retrain(tracker, found, folder, weights, terminal, profile=profile, workspace=workspace)
    else:
        equal = reproduce.rescore(tracker, found, folder, weights, terminal)
    if not equal:
        raise typer.Exit(1)
