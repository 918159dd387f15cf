"""Two configurations: compare."""

import json
from typing import Annotated

import typer

from pipelines.commands.options import HOME, AsJson, Home, Tracking, console
from pipelines.workspace import Workspace

WHO = "champion, a place, a label, an id, or a method that is one row's"


def compare(
    space: Annotated[str, typer.Argument(help="a space's name")],
    a: Annotated[str, typer.Argument(help=WHO)],
    b: Annotated[str, typer.Argument(help=WHO)],
    as_json: AsJson = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Compare two configurations on test, in pairs: over seeds and over images.

    Example: utuning compare demo champion linear
    """
    from pipelines.results import versus
    from pipelines.results.compare import read_rows
    from pipelines.tracking.tracker import Tracker

    workspace = Workspace(home)
    tracker = Tracker.of(workspace, tracking_uri)
    rows = read_rows(tracker, space)
    one, other = versus.find_row(rows, a), versus.find_row(rows, b)
    found = versus.compare_rows(tracker, tracker.runs(space), one, other)
    if as_json:
        typer.echo(json.dumps(versus.as_values(one, other, found), indent=2))
    else:
        versus.show(one, other, found, console())
