"""Comparing and taking: leaderboard, pull."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import HOME, AsJson, Home, Tracking, console
from pipelines.workspace import Workspace


def leaderboard(
    space: Annotated[str | None, typer.Argument(help="a space's name; all spaces if left out")] = None,
    to: Annotated[Path | None, typer.Option(help="folder for leaderboard.md, .json and .png")] = None,
    as_json: AsJson = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Compare all trials of a space: table, Markdown, JSON and a picture; published numbers stand beside them."""
    from pipelines.results import compare
    from pipelines.results.published import Beside
    from pipelines.tracking.tracker import Tracker

    workspace = Workspace(home)
    tracker = Tracker.of(workspace, tracking_uri)
    beside = Beside(tracker.spaces, lambda name: compare.read_rows(tracker, name))
    for name in [space] if space else tracker.spaces():
        rows, published = beside.rows(name), beside.comparisons(name)
        if as_json:
            typer.echo(json.dumps(compare.document(rows, published), indent=2))
            continue
        files = compare.write(rows, name, to or workspace.root / "leaderboards" / name, published)
        compare.show(rows, name, files, console(), published)


def pull(
    reference: Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS, NAME/VERSION, or a run's id")],
    to: Annotated[Path, typer.Option(help="the folder to make")],
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Copy a bundle to a folder, checked. NAME is a space's or a registered model's.

    Example: utuning pull demo@champion --to champion
    """
    from pipelines.registry.references import parse_reference

    wanted = parse_reference(reference)
    from pipelines.results.compare import pull_bundle
    from pipelines.tracking.tracker import Tracker

    workspace = Workspace(home)
    tracker = Tracker.of(workspace, tracking_uri)
    bundle = pull_bundle(tracker, wanted, to)
    console().print(f"{to}: {bundle.manifest.trial.name}, {len(bundle.manifest.class_names)} classes", highlight=False)
