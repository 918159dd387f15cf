"""The bundle: what deploys. Tuner and head, nothing of a frozen backbone, no pickle.

A folder of four regular files: `tuner.safetensors`, `probe.safetensors`, `manifest.json` and a model card, `README.md`.
The manifest carries size and sha256 of every other file and its own digest, the backbone's fingerprint, the
preprocessing and the labels. Reading checks all of it; putting a bundle on a backbone checks that the two fit.
docs/bundle.md describes the format.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from utuning.backbone import Backbone
from utuning.bundles.card import model_card
from utuning.bundles.files import AGAIN, check_entries, read_file
from utuning.bundles.manifest import Manifest, Storage, facts_of, sha256
from utuning.bundles.probe import Probe, check_probe, probe_images, probe_logits
from utuning.bundles.tensor_file import read_tensors
from utuning.configs import TrialConfig
from utuning.data.atomic import publish, writing_folder
from utuning.errors import BundleError
from utuning.member import Member

MANIFEST, TENSORS, PROBE, CARD = "manifest.json", "tuner.safetensors", "probe.safetensors", "README.md"
MAX_BYTES = {MANIFEST: 8 << 20, TENSORS: 16 << 30, PROBE: 64 << 20, CARD: 8 << 20}
DTYPES: dict[Storage, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that was read and checked, but for its fit to a backbone. Its tensors are float32."""

    path: Path
    manifest: Manifest
    tensors: Mapping[str, Tensor]
    probe: Probe

    def member(self, backbone: Backbone, *, probe: bool = True) -> Member:
        """Rebuild the trained member on a backbone; `probe=False` leaves out asking it for the stored logits.

        Raises:
            BundleError: the backbone is another one, the tensors do not fit it, or the logits are not the stored ones.
        """
        self.check_backbone(backbone)
        with torch.device("meta"):
            self._check_tensors(self._built(backbone.shapes))
        member = self._built(backbone)
        member.load_tensors(self.tensors)
        if probe:
            check_probe(self.probe, backbone, member, str(self.path))
        return member

    def load_backbone(self, weights: str | None = None) -> Backbone:
        """Load the backbone that the manifest names and check it; `weights` says where its weights lie here.

        Raises:
            BackboneError: it cannot be loaded.
            BundleError: it is another one than the tuner was trained on.
        """
        config = self.manifest.backbone
        backbone = Backbone.from_config(replace(config, weights=weights) if weights else config)
        self.check_backbone(backbone)
        return backbone

    def check_backbone(self, backbone: Backbone) -> None:
        """Check that a backbone is the one that the tuner was trained on.

        Raises:
            BundleError: it is another, or prepares images otherwise.
        """
        trial, wanted = self.manifest.trial, self.manifest.backbone_fingerprint
        if backbone.fingerprint != wanted:
            raise BundleError(
                f"{self.path} was trained on backbone {trial.backbone} with fingerprint {wanted[:16]}…, "
                f"but this backbone is {backbone.config.name} with {backbone.fingerprint[:16]}…; "
                "give the weights that it was trained on"
            )
        if backbone.preprocessing != self.manifest.preprocessing:
            raise BundleError(
                f"{self.path} was trained with {self.manifest.preprocessing}, but this backbone has "
                f"{backbone.preprocessing}; load the backbone with the configuration that the manifest names"
            )

    def _built(self, backbone: Backbone) -> Member:
        """The member with its initial values."""
        trial = self.manifest.trial
        try:
            return Member.from_trial(backbone, trial)
        except Exception as error:  # settings that come from a file may break a method in any way
            raise BundleError(
                f"{self.path}: its trial ({trial.label}) cannot be built on {backbone.config.name}: {error}; {AGAIN}"
            ) from error

    def _check_tensors(self, shapes: Member) -> None:
        """Compare with a member without memory, so that no size in a manifest takes any."""
        expected, found = shapes.tensors(), self.tensors
        problems = [f"missing {name}" for name in expected if name not in found]
        problems += [f"unexpected {name}" for name in found if name not in expected]
        for name in expected.keys() & found.keys():
            if (expected[name].shape, expected[name].dtype) != (found[name].shape, found[name].dtype):
                problems.append(
                    f"{name} is {tuple(found[name].shape)} {found[name].dtype}, "
                    f"not {tuple(expected[name].shape)} {expected[name].dtype}"
                )
        if problems:
            shown = "; ".join(sorted(problems)[:NUM_SHOWN])
            raise BundleError(f"{self.path / TENSORS} does not fit its own manifest: {shown}; {AGAIN}")


def save_bundle(
    to: Path,
    member: Member,
    *,
    backbone: Backbone,
    trial: TrialConfig,
    class_names: Sequence[str],
    metrics: Mapping[str, float],
    versions: Mapping[str, str],
    storage: Storage = "fp32",
    logits: Tensor | None = None,
) -> Path:
    """Write a bundle, whole or not at all; one that is there is replaced. Returns its folder.

    Args:
        to: the folder.
        member: what was trained.
        backbone: what it was trained on.
        trial: its configuration.
        class_names: the labels, in the order of the head's scores.
        metrics: what was measured.
        versions: of the packages that made it.
        storage: what the numbers are stored as.
        logits: the member's `probe_logits`, where somebody has them already; for fp32 only.

    Raises:
        BundleError: weights that are no finite numbers in this storage, or parts that do not belong together.
        DataError: the folder cannot be written.
    """
    tensors = _stored(member, storage)
    if logits is None or storage != "fp32":
        logits = _logits(backbone, trial, tensors)
    files = {
        TENSORS: save_tensors(tensors),
        PROBE: save_tensors({"images": probe_images(), "logits": logits.contiguous()}),
        CARD: model_card(trial, backbone.config, metrics, class_names).encode(),
    }
    manifest = Manifest.of(
        trial,
        backbone.config,
        backbone.preprocessing,
        class_names=class_names,
        metrics=metrics,
        versions=versions,
        storage=storage,
        files=files,
    )
    with writing_folder(to) as partial:
        for name, content in {**files, MANIFEST: manifest.as_bytes()}.items():
            (partial / name).write_bytes(content)
        publish(partial, to)
    return to


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file of it.

    Raises:
        BundleError: a file that is missing, too many, truncated, altered, or not what it has to be.
    """
    check_entries(path, MAX_BYTES.keys())
    manifest = Manifest.from_bytes(read_file(path / MANIFEST, MAX_BYTES[MANIFEST]), str(path / MANIFEST))
    if manifest.files.keys() != MAX_BYTES.keys() - {MANIFEST}:
        raise BundleError(
            f"{path / MANIFEST} lists {', '.join(sorted(manifest.files))[:200]}; allowed: {TENSORS}, {PROBE} and "
            f"{CARD}; {AGAIN}"
        )
    contents = {name: _checked(path / name, manifest) for name in manifest.files}
    tensors = read_tensors(contents[TENSORS], str(path / TENSORS))
    probe = read_tensors(contents[PROBE], str(path / PROBE))
    return Bundle(
        path=path,
        manifest=manifest,
        tensors={name: _restored(path, name, value, manifest.storage) for name, value in tensors.items()},
        probe=Probe.of(probe, len(manifest.class_names), str(path / PROBE)),
    )


def add_metrics(bundle: Bundle, metrics: Mapping[str, float]) -> Bundle:
    """Write a bundle again, whole or not at all, with metrics that were measured since it was saved.

    Manifest and card are new; the tensors and the probe are the bytes that they were.

    Raises:
        BundleError: its files changed meanwhile.
        DataError: the folder cannot be written.
    """
    manifest, path = bundle.manifest, bundle.path
    stated = {**manifest.metrics, **metrics}
    if stated == manifest.metrics:
        return bundle
    card = model_card(manifest.trial, manifest.backbone, stated, manifest.class_names).encode()
    files = {**manifest.files, CARD: facts_of(card)}
    with writing_folder(path) as partial:
        for name in (TENSORS, PROBE):
            shutil.copyfile(path / name, partial / name)
        (partial / CARD).write_bytes(card)
        (partial / MANIFEST).write_bytes(replace(manifest, metrics=stated, files=files).as_bytes())
        written = read_bundle(partial)
        publish(partial, path)
    return replace(written, path=path)


def bundle_bytes(path: Path) -> int:
    """Size of all files of a bundle in bytes."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def _stored(member: Member, storage: Storage) -> dict[str, Tensor]:
    tensors = {
        name: value.cpu().to(DTYPES[storage]) if value.is_floating_point() else value.cpu()
        for name, value in member.tensors().items()
    }
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise BundleError(
                f"{name} has values that are NaN, infinite, or too large for {storage}; allowed: finite numbers; "
                "train with a lower learning rate, or store as fp32"
            )
    return tensors


def _logits(backbone: Backbone, trial: TrialConfig, tensors: Mapping[str, Tensor]) -> Tensor:
    """What the tensors as they are stored answer."""
    stored = Member.from_trial(backbone, trial)
    stored.load_tensors({name: value.float() for name, value in tensors.items()})
    return probe_logits(backbone, [stored])[0]


def _checked(path: Path, manifest: Manifest) -> bytes:
    """A file's content, as the manifest says it is."""
    stated = manifest.files[path.name]
    content = read_file(path, min(MAX_BYTES[path.name], stated.bytes))
    if len(content) != stated.bytes or sha256(content) != stated.sha256:
        raise BundleError(
            f"{path} was altered or cut short: it has {len(content):,} bytes and sha256 {sha256(content)[:16]}…, the "
            f"manifest says {stated.bytes:,} bytes and {stated.sha256[:16]}…; {AGAIN}"
        )
    return content


def _restored(path: Path, name: str, value: Tensor, storage: Storage) -> Tensor:
    if not value.is_floating_point():
        return value
    if value.dtype != DTYPES[storage]:
        raise BundleError(
            f"{path / TENSORS} has {name} as {value.dtype}; allowed: {DTYPES[storage]}, as the manifest's storage is "
            f"{storage}; {AGAIN}"
        )
    return value.float()
