"""The law: what is saved is what is loaded, for a member of any method on any family; and any change is noticed."""

import tempfile
from functools import cache
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, reject, settings

from tests.bundles import NAMES, save, trained, trial
from tests.tools import batch, tiny_backbone
from tests.unit.test_methods import TABLE
from utuning.backbone import Backbone
from utuning.bundles.bundle import DTYPES, MAX_BYTES, read_bundle, save_bundle
from utuning.bundles.manifest import Storage
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.errors import BundleError, ConfigError, PlacementError
from utuning.member import Member
from utuning.tuners import TUNERS

FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "swin": (
        "swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    ),
    "convnext": ("convnext_tiny", {"dims": (8, 16, 24, 32), "depths": (2, 1, 1, 1)}),
    "mixer": ("mixer_s16_224", {"mlp_ratio": (0.125, 0.25)}),
    "resnet": ("test_resnet", {"layers": (2, 2, 1, 1), "channels": (8, 8, 16, 16)}),
}  # fmt: skip


@cache
def of(family: str) -> Backbone:
    name, options = FAMILIES[family]
    return Backbone.load(name, weights="none", img_size=32, options=options)


def answers(backbone: Backbone, member: Member) -> torch.Tensor:
    return Cohort(backbone, [member]).scores(batch(seed=7).images)[0]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_method_on_any_family_is_loaded_as_it_was_saved(data: st.DataObject) -> None:
    backbone = of(data.draw(st.sampled_from([*FAMILIES])))
    row = TUNERS[data.draw(st.sampled_from([*TUNERS]))]
    storage: Storage = data.draw(st.sampled_from([*DTYPES]))
    kinds = {kind for kind, _ in backbone.trunk.where}
    ops = () if row.default_ops else tuple(kind for kind in row.ops if kind in kinds)
    config = trial(backbone, TunerConfig(method=row.name, ops=ops))
    try:
        member = trained(backbone, config)
    except (PlacementError, ConfigError):
        reject()  # docs/capabilities.md says what stands where
    with tempfile.TemporaryDirectory() as folder:
        path = save_bundle(
            Path(folder) / "b", member, backbone=backbone, trial=config, class_names=NAMES, metrics={}, versions={},
            storage=storage,
        )  # fmt: skip
        bundle = read_bundle(path)
    assert bundle.manifest.trial == config
    again = bundle.member(backbone)
    for name, value in member.tensors().items():
        assert torch.equal(again.tensors()[name], value.to(DTYPES[storage]).float()), name
    if storage == "fp32":
        assert torch.equal(answers(backbone, again), answers(backbone, member))


@pytest.mark.parametrize("name", TABLE)
def test_every_method_of_the_table_is_loaded_to_the_bit(name: str, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    path, member = save(tmp_path / "bundle", backbone, *TABLE[name])
    assert torch.equal(answers(backbone, read_bundle(path).member(backbone)), answers(backbone, member))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sound") / "bundle", tiny_backbone(), TunerConfig(method="lora"))[0]


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([*MAX_BYTES]), data=st.data())
def test_no_changed_byte_goes_unnoticed(sound: Path, name: str, data: st.DataObject) -> None:
    """One byte of one file is another one, or is missing; nothing but a `BundleError` comes of it."""
    whole = (sound / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.sampled_from([b"", bytes([whole[at] ^ 1]), bytes([whole[at] ^ 0x80])]))
    try:
        (sound / name).write_bytes(whole[:at] + byte + whole[at + 1 :])
        with pytest.raises(BundleError):
            read_bundle(sound)
    finally:
        (sound / name).write_bytes(whole)
