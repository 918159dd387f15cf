"""Serving tuners over HTTP."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.commands.options import HOME, Home, Tracking, Weights

TOKEN = "UTUNING_SERVE_TOKEN"


def serve(
    bundles: Annotated[
        list[str], typer.Argument(help="folders of bundles, NAME@ALIAS, NAME/VERSION or runs; or ITS_NAME=any of these")
    ],
    host: Annotated[
        str, typer.Option(help="address to listen on; the default is for this machine alone")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one")] = 8000,
    canary: Annotated[
        list[str] | None, typer.Option(help="[TUNER@]ALIAS=SHARE of requests, such as candidate=0.1")
    ] = None,
    allow_load: Annotated[bool, typer.Option("--allow-load", help="let clients load and unload tuners")] = False,
    models: Annotated[Path | None, typer.Option(help="the folder whose bundles they may load")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"file with the token that clients show; or set {TOKEN}")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="rows that run together")] = 64,
    max_wait_ms: Annotated[float, typer.Option(help="how long a row waits for others")] = 5.0,
    max_queue: Annotated[int, typer.Option(help="rows that may wait")] = 1024,
    max_body_mb: Annotated[float, typer.Option(help="size of a request")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(help="pixels of an image")] = 50.0,
    max_images: Annotated[int, typer.Option(help="images of a request")] = 32,
    budget_mb: Annotated[float | None, typer.Option(help="memory of all tuners; the least used make room")] = None,
    storage: Annotated[Literal["fp32", "fp16", "bf16"], typer.Option(help="what tuners are held in")] = "fp32",
    poll_s: Annotated[float, typer.Option(help="how often to look whether an alias moved")] = 10.0,
    weights: Weights = None,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Serve tuners of one backbone: predictions, several tuners for one image, a page.

    Example: utuning serve champion, then open http://127.0.0.1:8000
    """
    from pipelines.serving.settings import Settings

    settings = Settings(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max(max_queue, max_batch),
        max_body_bytes=int(max_body_mb * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_images=max_images,
        byte_budget=None if budget_mb is None else int(budget_mb * 2**20),
        storage=storage,
        poll_s=poll_s,
        allow_load=allow_load,
        models=models,
        token=_token(token_file),
    )
    from pipelines.serving.handler import Handler
    from pipelines.serving.opening import open_all, opener
    from pipelines.serving.server import is_loopback, open_port, run

    listening = open_port(host, port)
    opened = open_all(bundles, canary or [], settings, opener(home, tracking_uri), weights)
    for tuner in opened.shelf.tuners.values():
        num_classes = len(tuner.manifest.class_names)
        typer.echo(f"{tuner.slot}: {tuner.manifest.trial.name}, {num_classes} classes, version {tuner.version}")
    if not is_loopback(host) and settings.token is None:
        typer.echo(f"warning: {host} can be reached from elsewhere, and there is no token; set {TOKEN}", err=True)
    try:
        run(Handler(opened, settings), listening, started=lambda url: typer.echo(f"serving on {url} (stop: Ctrl-C)"))
    except KeyboardInterrupt:
        typer.echo("stopped")


def _token(file: Path | None) -> str | None:
    """From a file or the environment: other users of the machine can read command lines."""
    from pipelines.serving.failures import ServingError

    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(
            f"the token file {str(file)!r} cannot be read ({error}); give a file with one line"
        ) from error
