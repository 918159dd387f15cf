"""What one does with a bundle: predict, verify, export."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import AsJson, BundleFolder, Weights, console


def predict(
    bundle: BundleFolder,
    images: Annotated[list[Path], typer.Argument(help="image files")],
    weights: Weights = None,
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

    show_predictions(predictions, console())


def verify(
    bundle: BundleFolder,
    weights: Weights = None,
    data: Annotated[
        Path | None, typer.Option(help="a prepared data set, or its folder of images: scores again")
    ] = None,
) -> None:
    """Check a bundle again: files, backbone, what it answers; with data, its scores.

    Example: utuning verify champion --data runs/data/demo-seed0
    """
    from pipelines.verify import examine

    if not examine(bundle, weights, data, console()):
        raise typer.Exit(1)


def export(
    bundle: BundleFolder,
    to: Annotated[str, typer.Option(help="the form: peft (for lora tuners)")],
    out: Annotated[Path, typer.Option(help="the folder to make")],
    weights: Weights = None,
) -> None:
    """Write a bundle in the form of another library.

    Example: utuning export champion --to peft --out champion-peft
    """
    from pipelines import export

    console().print(export.export(bundle, to, out, weights), highlight=False, markup=False, soft_wrap=True)
