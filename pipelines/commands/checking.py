"""The machine: doctor."""

import typer

from pipelines.commands.options import HOME, Home, Tracking, console
from pipelines.workspace import Workspace


def doctor(home: Home = HOME, tracking_uri: Tracking = None) -> None:
    """Check versions, devices, free disk and the tracking store."""
    from pipelines.workflows.doctor import examine

    workspace = Workspace(home)
    if not examine(workspace, tracking_uri or workspace.tracking_uri, console()):
        raise typer.Exit(1)
