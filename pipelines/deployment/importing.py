"""A tuner that another library trained, as a bundle."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from utuning.backbone import Backbone
from utuning.bundles.bundle import save_bundle
from utuning.bundles.peft_import import from_peft, read_peft
from utuning.configs import BackboneConfig, TrainConfig, TrialConfig
from utuning.errors import ConfigError, nearest
from utuning.member import Member

FORMS = ("peft",)
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What an adapter's folder does not say.

    Attributes:
        form: whose it is, one of `FORMS`.
        backbone: the timm model, its weights and its image size.
        labels: a text file with one class a line, in the order of the head's scores.
    """

    form: str
    backbone: BackboneConfig
    labels: Path


def import_adapter(folder: Path, given: Given, out: Path) -> str:
    """Write a bundle of an adapter, whole or not at all; gives what was found in it.

    Data, metrics and training are not known, and the bundle's manifest says so.

    Raises:
        ConfigError: an unknown form, labels that do not fit the head, or what is no plain LoRA.
        BackboneError: the backbone cannot be loaded.
        BundleError: files that are missing or damaged.
    """
    if given.form not in FORMS:
        raise ConfigError(f"nothing can be imported from {given.form!r}; {nearest(given.form, FORMS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} exists and is not an empty folder; name a new folder, or remove it")
    adapter, labels = read_peft(folder), _labels(given.labels)
    backbone = Backbone.from_config(given.backbone)
    found = from_peft(adapter, backbone)
    if len(labels) != found.num_classes:
        raise ConfigError(
            f"{given.labels} has {len(labels)} classes and the head {found.num_classes}; allowed: one line a class"
        )
    trial = TrialConfig(
        dataset=UNKNOWN,
        data_fingerprint=UNKNOWN,
        backbone=backbone.config.name,
        backbone_fingerprint=backbone.fingerprint,
        num_classes=found.num_classes,
        protocol=UNKNOWN,
        train=TrainConfig(lr=0.0, epochs=0),
        tuners=found.tuners,
    )
    member = Member.from_trial(backbone, trial)
    member.load_tensors(found.tensors)
    versions = {name: version(name) for name in ("torch", "timm")}
    save_bundle(out, member, backbone=backbone, trial=trial, class_names=labels, metrics={}, versions=versions)
    return f"{out}: {trial.method} with {len(labels)} classes; utuning predict {out} IMAGE…"


def _labels(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"labels {str(path)!r} cannot be read ({error}); give a text file, one class a line"
        ) from error
    return [line.strip() for line in lines if line.strip()]
