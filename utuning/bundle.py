"""The bundle: what deploys. Tuner and head, nothing of a frozen backbone, no pickle.

A folder with `tuner.safetensors`, `manifest.json` and a model card. The manifest carries the sha256 of every other file
and of itself, the backbone's fingerprint, the preprocessing and the labels; reading checks all of it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from utuning.backbone import Backbone
from utuning.card import model_card
from utuning.configs import BackboneConfig, TrialConfig
from utuning.data.atomic import publish, writing_folder
from utuning.data.transforms import Preprocessing
from utuning.errors import BundleError
from utuning.member import Member

SCHEMA_VERSION = 2
MANIFEST, TENSORS, CARD = "manifest.json", "tuner.safetensors", "README.md"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    trial: TrialConfig
    backbone: BackboneConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the trial's id and a digest of all the rest."""
        values = {**asdict(self), "trial_id": self.trial.trial_id, "preprocessing": self.preprocessing.as_dict()}
        return {**values, "manifest_digest": _manifest_digest(values)}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read and checked, but for its fit to a backbone."""

    path: Path
    manifest: Manifest
    tensors: Mapping[str, Tensor]

    def member(self, backbone: Backbone) -> Member:
        """Rebuild the trained member on a backbone.

        Raises:
            BundleError: the backbone is another one, or the tensors do not fit it.
        """
        wanted = self.manifest.trial.backbone_fingerprint
        if backbone.fingerprint != wanted:
            raise BundleError(
                f"{self.path} was trained on backbone {self.manifest.trial.backbone} with fingerprint {wanted[:16]}…, "
                f"but this backbone is {backbone.config.name} with {backbone.fingerprint[:16]}…; "
                "give the weights that it was trained on"
            )
        trial = self.manifest.trial
        member = Member(backbone, num_classes=len(self.manifest.class_names), config=trial.train, tuners=trial.tuners)
        _check_tensors(self.path, expected=member.tensors(), found=self.tensors)
        member.load_tensors(self.tensors)
        return member


def save_bundle(
    to: Path,
    member: Member,
    *,
    backbone: Backbone,
    trial: TrialConfig,
    class_names: Sequence[str],
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
) -> Path:
    """Write a bundle, whole or not at all; one that is there is replaced. Returns its folder."""
    tensors = save_tensors({name: value.cpu() for name, value in member.tensors().items()})
    card = model_card(trial, backbone.config, metrics, class_names).encode()
    manifest = Manifest(
        trial=trial,
        backbone=backbone.config,
        preprocessing=backbone.preprocessing,
        class_names=tuple(class_names),
        metrics=dict(metrics),
        versions=dict(versions),
        digests={TENSORS: _sha256(tensors), CARD: _sha256(card)},
    )
    text = json.dumps(manifest.as_dict(), indent=2).encode()
    with writing_folder(to) as partial:
        for name, content in ((TENSORS, tensors), (CARD, card), (MANIFEST, text)):
            (partial / name).write_bytes(content)
        publish(partial, to)
    return to


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check every digest.

    Raises:
        BundleError: a missing, truncated, altered or unreadable file, or a schema from the future.
    """
    values = _read_manifest(path)
    for name, digest in values["digests"].items():
        content = _read(path, name)
        if _sha256(content) != digest:
            raise BundleError(
                f"{path / name} was altered or cut short: its sha256 is {_sha256(content)[:16]}…, the manifest says "
                f"{digest[:16]}…; pull the bundle again"
            )
    try:
        return Bundle(path=path, manifest=_manifest(values), tensors=load_tensors(_read(path, TENSORS)))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} cannot be understood ({error}); pull the bundle again") from error


def bundle_bytes(path: Path) -> int:
    """Size of all files of a bundle in bytes."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BundleError(f"{path} is no bundle: there is no such folder; `utuning pull` makes one")
    try:
        values: dict[str, Any] = json.loads(_read(path, MANIFEST))
        version, digest = values["schema_version"], values.pop("manifest_digest")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BundleError(f"{path / MANIFEST} is no bundle manifest ({error}); pull the bundle again") from error
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        then = "upgrade it" if newer else "train again, or read it with an older package"
        raise BundleError(f"{path} has schema version {version}, this package reads {SCHEMA_VERSION}; {then}")
    if digest != _manifest_digest(values):
        raise BundleError(f"{path / MANIFEST} was altered: it does not match its own digest; pull the bundle again")
    return values


def _manifest(values: Mapping[str, Any]) -> Manifest:
    backbone = dict(values["backbone"])
    for name in ("mean", "std"):
        backbone[name] = tuple(backbone[name]) if backbone[name] else None
    return Manifest(
        trial=TrialConfig.from_dict(values["trial"]),
        backbone=BackboneConfig(**backbone),
        preprocessing=Preprocessing.from_dict(values["preprocessing"]),
        class_names=tuple(values["class_names"]),
        metrics=values["metrics"],
        versions=values["versions"],
        digests=values["digests"],
        schema_version=values["schema_version"],
    )


def _check_tensors(path: Path, *, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if (expected[name].shape, expected[name].dtype) != (found[name].shape, found[name].dtype):
            problems.append(
                f"{name} is {tuple(found[name].shape)} {found[name].dtype}, "
                f"not {tuple(expected[name].shape)} {expected[name].dtype}"
            )
    if problems:
        raise BundleError(f"{path / TENSORS} does not fit its own manifest: {'; '.join(sorted(problems)[:5])}")


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} is incomplete: {name} cannot be read ({error.strerror}); pull the bundle again"
        ) from error


def _manifest_digest(values: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(values, sort_keys=True, default=dict).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
