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
    from pipelines.workflows.show import show_predictions

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
    from pipelines.deployment.verify import examine

    if not examine(bundle, weights, data, console()):
        raise typer.Exit(1)


def export(
    bundles: Annotated[list[Path], typer.Argument(help="a bundle folder; several for a bank")],
    to: Annotated[str, typer.Option(help="the form: onnx, pt2, onnx-bank, pt2-bank, or peft (for lora tuners)")],
    out: Annotated[Path, typer.Option(help="the folder to make")],
    weights: Weights = None,
    images: Annotated[
        Path | None, typer.Option(help="a folder of images on which graph and bundle are compared")
    ] = None,
    graph: Annotated[
        Path | None, typer.Option(help="the folder of a bank's graph: make tuners for it, and no new graph")
    ] = None,
    max_width: Annotated[int | None, typer.Option(min=1, help="room in a bank for tuners of this width")] = None,
    max_classes: Annotated[int | None, typer.Option(min=1, help="room in a bank for heads of so many classes")] = None,
) -> None:
    """Write a bundle in the form of another library, or as a graph that needs none.

    A bank is one backbone graph that takes any number of tuners as inputs.

    Example: utuning export champion --to onnx --out champion-onnx --images photos
    """
    from pipelines.deployment.export import Wanted, export

    wanted = Wanted(
        form=to,
        out=out,
        weights=weights,
        images=images,
        graph=graph,
        max_width=max_width,
        max_classes=max_classes,
    )
    console().print(export(bundles, wanted), highlight=False, markup=False, soft_wrap=True)


def import_bundle(
    folder: Annotated[Path, typer.Argument(help="what the other library's save_pretrained wrote")],
    form: Annotated[str, typer.Option("--from", help="the other library: peft")],
    backbone: Annotated[str, typer.Option(help="timm's name of the model that it was trained on")],
    labels: Annotated[Path, typer.Option(help="a text file, one class a line, in the order of the head's scores")],
    out: Annotated[Path, typer.Option(help="the bundle to make")],
    weights: Annotated[str, typer.Option(help="the model's weights: timm, or a .safetensors file")] = "timm",
    img_size: Annotated[int | None, typer.Option(min=1, help="its image size, if not timm's own")] = None,
) -> None:
    """Make a bundle of a tuner that another library trained.

    Example: utuning import my-lora --from peft --backbone vit_small_patch16_224 --labels labels.txt --out champion
    """
    from pipelines.deployment.importing import Given, import_adapter
    from utuning.configs import BackboneConfig

    config = BackboneConfig(name=backbone, weights=weights, img_size=img_size)
    said = import_adapter(folder, Given(form=form, backbone=config, labels=labels), out)
    console().print(said, highlight=False, markup=False, soft_wrap=True)
