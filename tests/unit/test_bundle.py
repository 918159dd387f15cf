"""Bundles: saved = loaded; what they hold; what they are used for. What can be wrong: test_hostile_bundles.py."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.bundles import NAMES, save, trial
from tests.tools import adapter, batch, tiny_backbone
from utuning.backbone import Backbone
from utuning.bundles.bundle import CARD, MANIFEST, PROBE, TENSORS, add_metrics, bundle_bytes, read_bundle
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.errors import BundleError, DataError
from utuning.predict import Predictor


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
    assert {file.name for file in path.iterdir()} == {TENSORS, PROBE, MANIFEST, CARD}
    assert (
        json.loads((path / MANIFEST).read_text())["trial_id"] == trial(backbone, adapter("attn", depths=(0,))).trial_id
    )


def test_saving_again_replaces(backbone: Backbone, tmp_path: Path) -> None:
    save(tmp_path / "bundle", backbone, adapter("attn"))
    save(tmp_path / "bundle", backbone, adapter("mlp"))
    assert read_bundle(tmp_path / "bundle").manifest.trial.tuners[0].ops == ("mlp",)
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_what_is_measured_later_is_stated_and_the_tensors_stay(backbone: Backbone, tmp_path: Path) -> None:
    path, _ = save(tmp_path / "bundle", backbone, adapter("attn"))
    before = {name: (path / name).read_bytes() for name in (TENSORS, PROBE)}
    stated = read_bundle(path).manifest
    again = add_metrics(read_bundle(path), {"test/accuracy": 0.25, "test/count": 8})
    assert again.manifest == read_bundle(path).manifest and again.path == path
    assert again.manifest.metrics == {**stated.metrics, "test/accuracy": 0.25, "test/count": 8}
    assert replace(again.manifest, metrics=stated.metrics, files=stated.files) == stated
    assert {name: (path / name).read_bytes() for name in before} == before
    assert "split: test" in (path / CARD).read_text() and "| test/accuracy | 0.25 |" in (path / CARD).read_text()
    written = (path / MANIFEST).stat().st_ino
    add_metrics(again, {"test/accuracy": 0.25})
    assert (path / MANIFEST).stat().st_ino == written, "nothing new, nothing written"
    (path / TENSORS).write_bytes(b"")
    with pytest.raises(BundleError, match="was altered or cut short"):
        add_metrics(again, {"test/accuracy": 0.5})
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


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
