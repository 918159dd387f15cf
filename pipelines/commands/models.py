"""The registry: what there is, and which alias means what."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import HOME, AsJson, Home, Tracking, console
from pipelines.workspace import Workspace
from utuning.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.registry.models import Registry


def models(
    name: Annotated[
        str | None, typer.Argument(help="a space's or a registered model's; all models if left out")
    ] = None,
    as_json: AsJson = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """List registered bundles: versions, aliases, accuracy on val and test.

    Example: utuning models demo
    """
    from pipelines.registry import versions

    records = versions.listed(_registry(home, tracking_uri), name)
    if as_json:
        typer.echo(json.dumps(versions.as_json(records), indent=2))
    elif records:
        console().print(versions.table(records))
    else:
        console().print("no bundle is registered yet; `utuning search` registers the best of a search")


def alias(
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="such as demo@champion, or demo@canary")],
    version: Annotated[str | None, typer.Argument(help="a version's number, or another alias of it")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="forget the alias; its version stays")] = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Set an alias of a registered model, or delete it. Rolling back is moving `champion`.

    Example: utuning alias demo@champion former
    """
    from pipelines.registry import versions
    from pipelines.registry.references import registered_name

    wanted = versions.parse_alias(reference)
    if delete == (version is not None):
        raise ConfigError(f"{reference!r} needs either a VERSION to mean from now on, or --delete")
    registry = _registry(home, tracking_uri)
    if version is None:
        registry.delete_alias(registered_name(str(wanted.name)), str(wanted.alias))
        console().print(f"{reference}: deleted", highlight=False)
    else:
        console().print(f"{reference}: version {versions.move_alias(registry, wanted, version)}", highlight=False)


def _registry(home: Path, tracking_uri: str | None) -> "Registry":
    from pipelines.registry.models import Registry
    from pipelines.tracking.tracker import Tracker

    workspace = Workspace(home)
    return Registry(Tracker.of(workspace, tracking_uri))
