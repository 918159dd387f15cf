"""Backbones: where weights come from, fingerprints, and what bad input says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.tools import TINY, tiny_backbone
from utuning.backbone import Backbone, fingerprint, weights_path
from utuning.errors import BackboneError


def load(**changes: object) -> Backbone:
    return Backbone.load("vit_tiny_patch16_224", **{"img_size": 32, "options": TINY, **changes})  # type: ignore[arg-type]


def test_local_weights_give_the_same_backbone(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    save_file(backbone.trunk.model.state_dict(), tmp_path / "w.safetensors")
    again = load(weights=str(tmp_path / "w.safetensors"))
    assert again.fingerprint == backbone.fingerprint
    from_state = Backbone.from_config(backbone.config, backbone.trunk.model.state_dict())
    assert from_state.fingerprint == backbone.fingerprint


def test_fingerprints_tell_backbones_apart_and_ignore_storage() -> None:
    state = tiny_backbone().trunk.model.state_dict()
    shuffled = {name: state[name].double() for name in reversed(list(state))}
    assert fingerprint(shuffled) == fingerprint(state)
    state["norm.bias"] = state["norm.bias"] + 1e-6
    assert fingerprint(state) != fingerprint(shuffled)


def test_everything_is_frozen() -> None:
    backbone = tiny_backbone()
    assert not any(p.requires_grad for p in backbone.trunk.model.parameters())
    assert not any(module.training for module in backbone.trunk.model.modules())


def test_preprocessing_comes_from_timm_and_can_be_overridden() -> None:
    facts = load(weights="none").preprocessing
    assert (facts.img_size, facts.mean) == (32, (0.5, 0.5, 0.5))
    changed = load(weights="none", crop_pct=0.5, mean=(0.1, 0.2, 0.3)).preprocessing
    assert (changed.resize, changed.mean) == (64, (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("vit_tinny_patch16_224", "none", "close ones: vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224", "missing.safetensors", "no readable [.]safetensors file"),
        ("vit_tiny_patch16_224", "package://utuning.demo/nothing.safetensors", "no readable [.]safetensors file"),
        ("test_byobnet", "none", "no op sites are known for a ByobNet"),
    ],
)
def test_bad_backbones_are_named(name: str, weights: str, says: str) -> None:
    with pytest.raises(BackboneError, match=says):
        Backbone.load(name, weights=weights)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match="does not load"):
        load(weights=str(tmp_path / "w.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(BackboneError, match="does not load"):
        load(weights=str(tmp_path / "torn.safetensors"))
    (tmp_path / "pickle.bin").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"no readable [.]safetensors"):
        weights_path(str(tmp_path / "pickle.bin"))
