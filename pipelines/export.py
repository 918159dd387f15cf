"""A bundle in the form of another library."""

from collections.abc import Callable, Mapping
from pathlib import Path

from utuning.backbone import Backbone
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.bundles.peft_export import to_peft, write_peft
from utuning.errors import ConfigError, nearest
from utuning.member import Member


def export(path: Path, form: str, out: Path, weights: str | None = None) -> str:
    """Write a bundle in another form to a folder of its own; gives what to do with it.

    Raises:
        ConfigError: an unknown form, a folder that holds something, or a method that this form does not know.
        BundleError: the bundle is not sound, or is another backbone's.
    """
    if form not in FORMS:
        raise ConfigError(f"a bundle cannot be exported to {form!r}; {nearest(form, FORMS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} exists and is not an empty folder; name a new folder, or remove it")
    bundle = read_bundle(path)
    backbone = bundle.load_backbone(weights)
    return FORMS[form](bundle, backbone, bundle.member(backbone), out)


def _to_peft(bundle: Bundle, backbone: Backbone, member: Member, out: Path) -> str:
    classes = len(bundle.manifest.class_names)
    write_peft(to_peft(backbone, member), backbone, classes, out)
    name = backbone.config.name
    return (
        f"{out}: load it with peft.PeftModel.from_pretrained(timm.create_model({name!r}, num_classes={classes}, …), "
        f"{str(out)!r}); its README.md has the whole call"
    )


FORMS: Mapping[str, Callable[[Bundle, Backbone, Member, Path], str]] = {"peft": _to_peft}
