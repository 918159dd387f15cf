"""The command line. Heavy packages are imported by the command that needs them, so that `--help` answers at once."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipelines.readers_help import readers_help
from pipelines.workspace import Workspace
from utuning.errors import UTuningError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find, compare and deploy parameter-efficient tuners of frozen vision backbones.",
    epilog="A first look: utuning search demo, then utuning pull demo --to champion",
)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value changes, such as train.epochs=2 or tuners.0.ops='[attn]'")
]
Space = Annotated[str, typer.Argument(help="a search space: demo, or the path of a YAML file")]
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
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
HOME = Path("runs")


@app.command()
def plan(
    space: Space,
    overrides: Overrides = None,
    cluster: Cluster = "local",
    num_workers: Workers = None,
    home: Home = HOME,
) -> None:
    """Show what a search would do and what it would cost, without doing it."""
    from cluster.profile import load_profile
    from pipelines import forecast, plan, show
    from search_spaces.loader import load_space

    profile, workspace, console = load_profile(cluster, num_workers), Workspace(home), _console()
    ready = plan.prepare_search(load_space(space, overrides or ()), workspace)
    show.show_plan(ready, console)
    found = forecast.forecast(ready, profile, *forecast.stand_in(profile))
    show.show_forecast(found, console)
    forecast.remember(found, workspace.prediction(plan.space_digest(ready)))


@app.command()
def search(
    space: Space,
    overrides: Overrides = None,
    cluster: Cluster = "local",
    num_workers: Workers = None,
    resume: Resume = False,
    isolated: Isolated = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Search a space; the best trial on val becomes the champion.

    Example: utuning search demo budget.num_trials=4 --cluster local
    """
    options = {"tracking_uri": tracking_uri, "resume": resume, "isolated": isolated}
    _run(space, overrides, cluster, num_workers, home, **options)


@app.command()
def train(
    space: Space,
    overrides: Overrides = None,
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
    options = {"tracking_uri": tracking_uri, "resume": resume, "isolated": isolated}
    _run(space, overrides, cluster, num_workers, home, fixed=True, **options)


@app.command()
def leaderboard(
    space: Annotated[str | None, typer.Argument(help="a space's name; all spaces if left out")] = None,
    to: Annotated[Path | None, typer.Option(help="folder for leaderboard.md, .json and .png")] = None,
    as_json: AsJson = False,
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Compare all trials of a space: table, Markdown, JSON and a picture."""
    from pipelines import compare
    from pipelines.tracking import Tracker

    workspace = Workspace(home)
    tracker = Tracker.open(tracking_uri or workspace.tracking_uri, workspace.artifacts)
    for name in [space] if space else tracker.spaces():
        rows = compare.read_rows(tracker, name)
        if as_json:
            typer.echo(json.dumps(compare.document(rows), indent=2))
            continue
        files = compare.write(rows, name, to or workspace.root / "leaderboards" / name)
        compare.show(rows, name, files, _console())


@app.command()
def pull(
    space: Annotated[str, typer.Argument(help="a space's or a registered model's name")],
    to: Annotated[Path, typer.Option(help="the folder to make")],
    alias: Annotated[str, typer.Option(help="which version")] = "champion",
    home: Home = HOME,
    tracking_uri: Tracking = None,
) -> None:
    """Copy the bundle under an alias to a folder, checked."""
    from pipelines.compare import pull_bundle
    from pipelines.tracking import Tracker

    workspace = Workspace(home)
    tracker = Tracker.open(tracking_uri or workspace.tracking_uri, workspace.artifacts)
    bundle = pull_bundle(tracker, space, alias, to)
    _console().print(f"{to}: {bundle.manifest.trial.name}, {len(bundle.manifest.class_names)} classes", highlight=False)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="a folder that `utuning pull` made")],
    images: Annotated[list[Path], typer.Argument(help="image files")],
    weights: Annotated[str | None, typer.Option(help="where the backbone's weights lie on this machine")] = None,
    top: Annotated[int, typer.Option(min=1, help="classes to name")] = 5,
    as_json: AsJson = False,
) -> None:
    """Name the classes of images; needs no tracking server and no Ray."""
    from utuning.predict import Predictor

    predictions = Predictor.open(bundle, weights=weights).predict(images, top=top)
    if as_json:
        typer.echo(json.dumps([{"image": p.image, "classes": dict(p.classes)} for p in predictions], indent=2))
        return
    from pipelines.show import show_predictions

    show_predictions(predictions, _console())


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="a folder that `utuning pull` made")],
    weights: Annotated[str | None, typer.Option(help="where the backbone's weights lie on this machine")] = None,
    data: Annotated[
        Path | None, typer.Option(help="a prepared data set, or its folder of images: scores again")
    ] = None,
) -> None:
    """Check a bundle again: files, backbone, what it answers; with data, its scores.

    Example: utuning verify champion --data runs/data/demo-seed0
    """
    from pipelines.verify import examine

    if not examine(bundle, weights, data, _console()):
        raise typer.Exit(1)


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="a folder that `utuning pull` made")],
    to: Annotated[str, typer.Option(help="the form: peft (for lora tuners)")],
    out: Annotated[Path, typer.Option(help="the folder to make")],
    weights: Annotated[str | None, typer.Option(help="where the backbone's weights lie on this machine")] = None,
) -> None:
    """Write a bundle in the form of another library.

    Example: utuning export champion --to peft --out champion-peft
    """
    from pipelines import export

    _console().print(export.export(bundle, to, out, weights), highlight=False, markup=False, soft_wrap=True)


@app.command(epilog=readers_help())
def prepare(
    source: Annotated[Path, typer.Option("--from", help="an archive, or a folder: see below")],
    to: Annotated[str, typer.Option(help="the folder to write Parquet shards to, or a URI such as s3://bucket/folder")],
    reader: Annotated[str, typer.Argument(help="how to read it: see below")] = "folder",
    name: Annotated[str | None, typer.Option(help="the data set's name; the reader's or source's if left out")] = None,
    lists: Annotated[list[str] | None, typer.Option("--list", help="SPLIT=FILE of `path, class id` lines")] = None,
    classes: Annotated[Path | None, typer.Option(help="CSV of class names and ids")] = None,
    image_column: Annotated[str | None, typer.Option(help="the images' column of Parquet files")] = None,
    label_column: Annotated[str | None, typer.Option(help="the labels' column of Parquet files")] = None,
    protocol: Annotated[str, typer.Option(help="vpt, trainval-final or official: where val comes from")] = "vpt",
    val_fraction: Annotated[float, typer.Option(help="share of train that becomes val where there is none")] = 0.1,
    test_fraction: Annotated[float | None, typer.Option(help="share that becomes test where there is none")] = None,
    subset: Annotated[bool, typer.Option("--subset", help="accept a part of a known data set, and mark it so")] = False,
    skip_corrupt: Annotated[bool, typer.Option(help="leave damaged images out and count them")] = False,
    overwrite: Annotated[bool, typer.Option(help="replace what is there")] = False,
    work: Annotated[Path | None, typer.Option(help="folder for unpacked archives and notes to go on from")] = None,
) -> None:
    """Turn images into Parquet shards that Hugging Face `datasets` reads too. Called again, it goes on.

    Example: utuning prepare cub200 --from CUB_200_2011.tgz --to data/cub200
    """
    from pipelines.bar import progress_bar
    from pipelines.datasets import prepare_source

    console = _console()
    with progress_bar(console) as progress:
        info = prepare_source(
            reader,
            source,
            to,
            name=name,
            lists=_pairs(lists or []),
            classes=classes,
            image_column=image_column,
            label_column=label_column,
            subset=subset,
            protocol=protocol,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            skip_corrupt=skip_corrupt,
            overwrite=overwrite,
            work=work,
            progress=progress,
        )
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    part = ", a subset" if info.subset else ""
    console.print(f"{info.path}: {counts} images of {len(info.class_names)} classes{part}", highlight=False)
    console.print(f"data version {info.fingerprint}; val: {info.val}", highlight=False, soft_wrap=True)
    for note in (*info.warnings, *(f"skipped {path}" for path in info.skipped)):
        console.print(f"[yellow]note[/yellow] {note}", highlight=False)


@app.command()
def doctor(home: Home = HOME, tracking_uri: Tracking = None) -> None:
    """Check versions, devices, free disk and the tracking store."""
    from pipelines.doctor import examine

    workspace = Workspace(home)
    if not examine(workspace, tracking_uri or workspace.tracking_uri, _console()):
        raise typer.Exit(1)


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
    launch(space, overrides or (), _console(), profile=profile, workspace=Workspace(home), **options)


def _pairs(given: list[str]) -> dict[str, Path]:
    from utuning.errors import ConfigError

    pairs = dict(item.partition("=")[::2] for item in given)
    if any(not file for file in pairs.values()):
        raise ConfigError(f"--list wants SPLIT=FILE, such as train=train.txt; given {', '.join(given)}")
    return {split: Path(file) for split, file in pairs.items()}


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(code)


def _console() -> Any:
    from rich.console import Console

    return Console()


if __name__ == "__main__":
    main()
