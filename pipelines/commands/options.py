"""Options that several commands share, and where they print."""

from pathlib import Path
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value changes, such as train.epochs=2 or tuners.0.ops='[attn]'")
]
Space = Annotated[str, typer.Argument(help="a search space: demo, or the path of a YAML file")]
Tier = Annotated[str | None, typer.Option(help="one of the space's tiers: named sets of overrides, such as small")]
Ahead = Annotated[
    bool, typer.Option("--ahead", help="count FLOPs and bytes for a known data set, without its data or weights")
]
Home = Annotated[Path, typer.Option("--home", envvar="UTUNING_HOME", help="folder of data, runs and artifacts")]
Tracking = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store; sqlite in HOME if left out"),
]
Cluster = Annotated[
    str, typer.Option(help="a profile of cluster/, a YAML file, or the address of a running Ray cluster")
]
Workers = Annotated[int | None, typer.Option(min=1, help="data-parallel workers of each cohort")]
Isolated = Annotated[bool, typer.Option("--isolated", help="a worker group for each trial: slower, same results")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the last search of this space that was cut off")]
WarmStart = Annotated[bool, typer.Option("--warm-start", help="try first what did well on data sets that are alike")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
HOME = Path("runs")
BundleFolder = Annotated[Path, typer.Argument(help="a folder that `utuning pull` made")]
Weights = Annotated[str | None, typer.Option(help="where the backbone's weights lie on this machine")]


def console() -> Any:
    """Give the terminal as a rich `Console`; rich is imported here."""
    from rich.console import Console

    return Console()
