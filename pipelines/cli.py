"""The command line: a table of its verbs, and how errors end it."""

import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from pipelines.commands import (
    checking,
    comparing,
    deploying,
    models,
    preparing,
    reproducing,
    results,
    searching,
    serving,
)
from pipelines.commands.readers_help import readers_help
from utuning.errors import UTuningError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find, compare and deploy parameter-efficient tuners of frozen vision backbones.",
    epilog="A first look: utuning search demo, then utuning pull demo --to champion",
)
for command in (
    searching.plan,
    searching.search,
    searching.train,
    results.leaderboard,
    comparing.compare,
    results.pull,
    models.models,
    models.alias,
    reproducing.reproduce,
    deploying.predict,
    deploying.verify,
    deploying.export,
    serving.serve,
):
    app.command()(command)
app.command(name="import")(deploying.import_bundle)
app.command(epilog=readers_help())(preparing.prepare)
app.command()(checking.doctor)


def main() -> NoReturn:
    """Run the command line."""
    run_reporting_errors(app)


def run_reporting_errors(run: Callable[[], object]) -> NoReturn:
    """Run and exit; an error that a user can act on is one message, never a traceback."""
    try:
        run()
    except UTuningError as error:
        _fail(f"error: {error}", 1)
    except KeyboardInterrupt:
        _fail("stopped; a search goes on with --resume, prepare when called again", 130)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
