"""A bundle in the form of another library, or as a graph that needs none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.deployment.graph_folder import write_bank, write_packed, write_single
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.bundles.peft_export import to_peft, write_peft
from utuning.errors import ConfigError, nearest

FORMS = ("peft", "onnx", "pt2", "onnx-bank", "pt2-bank")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to make, and where.

    Attributes:
        form: one of `FORMS`.
        out: the folder to make.
        weights: where the backbone's weights lie here.
        images: a folder of images on which the graph is compared too.
        graph: for a bank, the folder of a graph that is there already: then tensors for it are made, and no graph.
        max_width: for a bank, room for tuners of this width.
        max_classes: for a bank, room for heads of so many classes.
    """

    form: str
    out: Path
    weights: str | None = None
    images: Path | None = None
    graph: Path | None = None
    max_width: int | None = None
    max_classes: int | None = None


def export(paths: Sequence[Path], wanted: Wanted) -> str:
    """Write bundles in another form to a folder of its own, whole or not at all; gives what to do with it.

    Raises:
        ConfigError: an unknown form, a folder that holds something, a method that this form does not know, or a graph
            that answers otherwise than the bundle.
        BundleError: a bundle is not sound, or is another backbone's.
        DataError: an image that cannot be read.
    """
    _check(paths, wanted)
    bundles = {path.resolve().name: read_bundle(path) for path in paths}
    form, _, bank = wanted.form.partition("-")
    if bank:
        if wanted.graph is not None:
            return write_packed(bundles, form, wanted.graph, wanted.out, wanted.weights, wanted.images)
        room = {"max_width": wanted.max_width, "max_classes": wanted.max_classes}
        return write_bank(bundles, form, wanted.out, wanted.weights, wanted.images, **room)
    (bundle,) = bundles.values()
    if form == "peft":
        return _write_peft(bundle, wanted)
    return write_single(bundle, form, wanted.out, wanted.weights, wanted.images)


def _check(paths: Sequence[Path], wanted: Wanted) -> None:
    """Check what can be checked before any work."""
    form, out = wanted.form, wanted.out
    if form not in FORMS:
        raise ConfigError(f"a bundle cannot be exported to {form!r}; {nearest(form, FORMS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} exists and is not an empty folder; name a new folder, or remove it")
    bank = form.endswith("-bank")
    if len(paths) > 1 and not bank:
        raise ConfigError(f"{form} takes one bundle, and {len(paths)} are given; several: --to onnx-bank or pt2-bank")
    names = [path.resolve().name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two bundles are in folders named {twice[0]!r}; a bank knows them by it: rename one")
    given = {"--graph": wanted.graph, "--max-width": wanted.max_width, "--max-classes": wanted.max_classes}
    for option, value in given.items():
        if value is not None and not bank:
            raise ConfigError(f"{option} is for a bank; allowed: --to onnx-bank or pt2-bank; leave it out")
        if value is not None and option != "--graph" and wanted.graph is not None:
            raise ConfigError(
                f"{option} is for a new graph, and --graph names one that is there; leave one of them out"
            )
    if wanted.images is not None and form == "peft":
        raise ConfigError("--images is for graphs; allowed: --to onnx, pt2 or a bank of them; leave it out")


def _write_peft(bundle: Bundle, wanted: Wanted) -> str:
    out, classes = wanted.out, len(bundle.manifest.class_names)
    backbone = bundle.load_backbone(wanted.weights)
    write_peft(to_peft(backbone, bundle.member(backbone)), backbone, classes, out)
    name = backbone.config.name
    return (
        f"{out}: load it with peft.PeftModel.from_pretrained(timm.create_model({name!r}, num_classes={classes}, …), "
        f"{str(out)!r}); its README.md has the whole call"
    )
