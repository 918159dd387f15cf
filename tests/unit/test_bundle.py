"""Bundles: saved = loaded, and everything that can be wrong with one is said."""

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tools import adapter, batch, tiny_backbone, trial_of
from utuning.backbone import Backbone
from utuning.bundle import MANIFEST, TENSORS, _manifest_digest, _sha256, bundle_bytes, read_bundle, save_bundle
from utuning.cohort import Cohort
from utuning.configs import TrialConfig, TunerConfig
from utuning.errors import BundleError, DataError
from utuning.member import Member
from utuning.predict import Predictor

NAMES = ("ant", "bee", "cat", "dog", "eel")


def trial(backbone: Backbone, *tuners: TunerConfig) -> TrialConfig:
    own = {"backbone": backbone.config.name, "backbone_fingerprint": backbone.fingerprint}
    return trial_of(*tuners, num_classes=len(NAMES), **own)


def trained(backbone: Backbone, config: TrialConfig) -> Member:
    member = Member(backbone, num_classes=len(NAMES), config=config.train, tuners=config.tuners)
    Cohort(backbone, [member]).step(batch())
    return member


def save(to: Path, backbone: Backbone, *tuners: TunerConfig) -> tuple[Path, Member]:
    config = trial(backbone, *tuners)
    member = trained(backbone, config)
    values = {"val/accuracy": 0.5}
    saved = save_bundle(
        to, member, backbone=backbone, trial=config, class_names=NAMES, metrics=values, versions={"torch": "1"}
    )
    return saved, member


@pytest.mark.parametrize(
    "tuners", [(adapter("attn", "mlp"),), (adapter("block", depths=(1,)),), (), (TunerConfig(method="full"),)]
)
def test_loaded_equals_saved_to_the_bit(backbone: Backbone, tmp_path: Path, tuners: tuple[TunerConfig, ...]) -> None:
    path, member = save(tmp_path / "bundle", backbone, *tuners)
    again = read_bundle(path).member(backbone)
    images = batch().images
    before, after = (Cohort(backbone, [who]).predict(images)[0] for who in (member, again))
    assert torch.equal(before, after)


def test_a_bundle_holds_nothing_of_a_frozen_backbone(backbone: Backbone, tmp_path: Path) -> None:
    path, member = save(tmp_path / "bundle", backbone, adapter("attn", depths=(0,)))
    tensors = load_file(path / TENSORS)
    assert sum(value.numel() for value in tensors.values()) == sum(member.num_parameters().values())
    assert bundle_bytes(path) < 20_000
    assert {file.name for file in path.iterdir()} == {TENSORS, MANIFEST, "README.md"}
    assert (
        json.loads((path / MANIFEST).read_text())["trial_id"] == trial(backbone, adapter("attn", depths=(0,))).trial_id
    )


def test_saving_again_replaces(backbone: Backbone, tmp_path: Path) -> None:
    save(tmp_path / "bundle", backbone, adapter("attn"))
    save(tmp_path / "bundle", backbone, adapter("mlp"))
    assert read_bundle(tmp_path / "bundle").manifest.trial.tuners[0].ops == ("mlp",)
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_another_backbone_is_refused_and_both_are_named(backbone: Backbone, tmp_path: Path) -> None:
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    other = tiny_backbone(seed=1)
    with pytest.raises(BundleError) as error:
        read_bundle(path).member(other)
    assert backbone.fingerprint[:16] in str(error.value)
    assert other.fingerprint[:16] in str(error.value)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Alter a manifest and give it the digest of its altered self."""
    values = json.loads((path / MANIFEST).read_text())
    values.pop("manifest_digest")
    change(values)
    (path / MANIFEST).write_text(json.dumps({**values, "manifest_digest": _manifest_digest(values)}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda path: flip(path / TENSORS), "altered or cut short"),
    "a truncated file": (lambda path: (path / TENSORS).write_bytes((path / TENSORS).read_bytes()[:100]), "cut short"),
    "a missing file": (lambda path: (path / TENSORS).unlink(), "incomplete"),
    "no manifest": (lambda path: (path / MANIFEST).unlink(), "incomplete"),
    "an altered card": (lambda path: flip(path / "README.md"), "altered"),
    "an altered manifest": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text().replace("ant", "ape")), "own digest"
    ),
    "a manifest that is no JSON": (lambda path: (path / MANIFEST).write_text("{"), "no bundle manifest"),
    "a manifest that is a list": (lambda path: (path / MANIFEST).write_text("[]"), "no bundle manifest"),
    "a future schema": (lambda path: rewrite(path, lambda values: values.update(schema_version=99)), "upgrade"),
    "no trial": (lambda path: rewrite(path, lambda values: values.pop("trial")), "cannot be understood"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_said(backbone: Backbone, tmp_path: Path, name: str) -> None:
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    damage, says = DAMAGE[name]
    damage(path)
    with pytest.raises(BundleError, match=says):
        read_bundle(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop("head.bias"), "missing head.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda tensors: tensors.update({"head.bias": torch.zeros(2)}), r"head.bias is \(2,\)"),
        (lambda tensors: tensors.update({"head.bias": torch.zeros(5).half()}), "float16"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    backbone: Backbone, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    tensors = load_file(path / TENSORS)
    change(tensors)
    save_file(tensors, path / TENSORS)
    digest = _sha256((path / TENSORS).read_bytes())
    rewrite(path, lambda values: values["digests"].update({TENSORS: digest}))  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match=says):
        read_bundle(path).member(backbone)


def test_a_write_that_fails_leaves_what_was_there(backbone: Backbone, tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the same write fails, for the same reason to the writer."""
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    before = (path / MANIFEST).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(DataError, match="nothing of it was kept"):
            save(path, backbone, adapter("attn", "mlp"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path / MANIFEST).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_prediction_needs_the_bundle_and_the_weights_only(tmp_path: Path) -> None:
    weights = tmp_path / "vit.safetensors"
    save_file(tiny_backbone().trunk.model.state_dict(), weights)
    config = replace(tiny_backbone().config, weights=str(weights))
    backbone = Backbone.from_config(config)
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    image = tmp_path / "photo.png"
    Image.new("RGB", (40, 60), (200, 10, 10)).save(image)
    (prediction,) = Predictor.open(path).predict([image], top=2)
    assert len(prediction.classes) == 2
    assert prediction.label in NAMES
    assert prediction.classes[0][1] >= prediction.classes[1][1]
    moved = weights.rename(tmp_path / "moved.safetensors")
    assert next(iter(Predictor.open(path, weights=str(moved)).predict([image]))).label == prediction.label


def test_images_that_cannot_be_read_are_named(backbone: Backbone, tmp_path: Path) -> None:
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    predictor = Predictor(read_bundle(path), backbone)
    for name in ("missing.jpg", "broken.jpg"):
        with pytest.raises(DataError, match=name):
            list(predictor.predict([tmp_path / name]))
