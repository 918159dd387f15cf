"""The laws of a bank: padding changes nothing, and each row is its tuner alone."""

from collections.abc import Mapping
from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.property.test_pool_law import alone, moved
from tests.tools import adapter, batch, tiny_backbone
from tests.unit.test_architectures import backbone_of
from utuning.backbone import Backbone
from utuning.configs import TunerConfig
from utuning.errors import ConfigError
from utuning.exporting.bank import HEAD_BIAS, Bank
from utuning.exporting.bank_model import BankModel
from utuning.exporting.families import MASKED, METHODS
from utuning.member import Member

BACKBONE = tiny_backbone()
IMAGES = batch(size=5).images
Tuners = tuple[TunerConfig, ...]


def one(method: str, *ops: str, depths: str | None = None, **given: object) -> Tuners:
    return (TunerConfig(method=method, ops=ops, depths=depths, settings=given),)


ALL = ("attn", "mlp", "block")
TAKEN: dict[str, Tuners] = {
    **{name: one(name, *(ALL if name.startswith("p_") else ())) for name in METHODS},
    "linear": (),
    "scalar": (adapter("attn", scale="scalar", bottleneck_dim=3),),
    "unscaled": (adapter("mlp", "block", scale="none", depths="last:2"),),
    "wide": (adapter("mlp", bottleneck_dim=24),),
    "prefix, unscaled": one("p_prefix", "block", num_tokens=3, scale="none"),
    "prefix, scalar": one("p_prefix", "attn", num_tokens=2, scale="scalar", depths="last"),
    "long prefix": one("prefix_tuning", num_tokens=17, depths="last:2"),
    "all of lora": one("lora", "attn", "mlp", layers=("q", "k", "proj", "fc1"), lora_rank=2, alpha=5.0),
    "fused": one("lora", layers=("qkv",), lora_rank=3),
    "lora and adapters": (*one("lora", lora_rank=2), adapter("attn", "mlp")),
    "constant scale": one("adaptformer", "attn", bottleneck_dim=4, scale=-2.0),
    "last adapter+": one("adapter_plus", "attn", depths="last"),
}
TOGETHER = {
    "inside": [n for n in TAKEN if "lora" in n or n == "fused"],
    "instead": ["mam", "prefix_tuning", "long prefix"],
}
BESIDE = [name for name in TAKEN if name not in [*TOGETHER["inside"], *TOGETHER["instead"]]]


@cache
def solo(name: str, num_classes: int = 3, seed: int = 0) -> tuple[Member, Tensor]:
    member = moved(BACKBONE, TAKEN[name], num_classes, seed)
    return member, alone(BACKBONE, member)


@torch.no_grad()
def answers(backbone: Backbone, bank: Bank, packed: Mapping[str, Tensor], tuner: list[int], image: list[int]) -> Tensor:
    logits: Tensor = BankModel(backbone, bank)(IMAGES[image], torch.tensor(tuner), packed)
    return logits


def assert_alone(bank: Bank, members: dict[str, Member], backbone: Backbone = BACKBONE) -> None:
    """Every tuner with every image."""
    pairs = [(place, image) for image in range(len(IMAGES)) for place in range(len(members))]
    tuner, image = [place for place, _ in pairs], [image for _, image in pairs]
    logits = answers(backbone, bank, bank.pack(backbone, members), tuner, image)
    expected = [alone(backbone, member) for member in members.values()]
    for row, (place, at) in zip(logits, pairs, strict=True):
        own = expected[place].shape[1]
        torch.testing.assert_close(row[:own], expected[place][at], rtol=1e-4, atol=1e-5)
        assert (row[own:] < MASKED / 10).all()


@pytest.mark.parametrize("name", TAKEN)
def test_a_row_is_its_tuner_alone(name: str) -> None:
    member, _ = solo(name)
    assert_alone(Bank.of(BACKBONE, {name: member}), {name: member})


@pytest.mark.parametrize("name", TAKEN)
def test_padding_changes_nothing(name: str) -> None:
    members = {name: solo(name)[0]}
    narrow = Bank.of(BACKBONE, members)
    wide = Bank.of(BACKBONE, members, max_width=600, max_classes=11)
    assert name == "linear" or wide.shapes() != narrow.shapes()
    few = answers(BACKBONE, narrow, narrow.pack(BACKBONE, members), [0] * 5, [*range(5)])
    many = answers(BACKBONE, wide, wide.pack(BACKBONE, members), [0] * 5, [*range(5)])
    torch.testing.assert_close(many[:, :3], few, rtol=1e-5, atol=1e-6)
    assert (many[:, 3:].softmax(-1).isfinite()).all() and (many[:, 3:] < MASKED / 10).all()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(TOGETHER)).flatmap(
        lambda kind: st.lists(
            st.tuples(st.sampled_from([*TOGETHER[kind], *BESIDE]), st.integers(1, 4), st.integers(0, 2)),
            min_size=1,
            max_size=5,
        )
    )
)
def test_any_mix_is_each_alone(specs: list[tuple[str, int, int]]) -> None:
    members = {str(place): solo(*spec)[0] for place, spec in enumerate(specs)}
    assert_alone(Bank.of(BACKBONE, members), members)


def test_no_tuner_at_a_site_is_the_frozen_site() -> None:
    members = {name: solo(name)[0] for name in ("linear", "p_prefix", "long prefix", "p_adapter", "scaled_parallel")}
    bank = Bank.of(BACKBONE, members)
    packed = bank.pack(BACKBONE, {"linear": solo("linear")[0]})
    assert all(not value.any() for name, value in packed.items() if not name.startswith("head."))
    assert (packed[HEAD_BIAS][0, :3] > -1e3).all()
    torch.testing.assert_close(
        answers(BACKBONE, bank, packed, [0] * 5, [*range(5)])[:, :3], solo("linear")[1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("family", ["swin", "convnext", "eva separate"])
def test_it_holds_on_every_layout(family: str) -> None:
    backbone = backbone_of(family)
    kinds = {kind for kind, _ in backbone.trunk.where}
    given: dict[str, Tuners] = {
        "adapter": (adapter(*sorted(kinds & {"attn", "mlp", "conv"})),),
        "linear": (),
        "plus": one("adapter_plus"),
        **({} if family == "convnext" else {"lora": one("lora", layers=("q", "v", "proj"), lora_rank=2)}),
        **({} if family == "convnext" else {"p_prefix": one("p_prefix", "attn")}),
    }
    members = {name: moved(backbone, tuners, 3, 0) for name, tuners in given.items()}
    assert_alone(Bank.of(backbone, members), members, backbone)


@pytest.mark.parametrize(
    ("tuners", "says"),
    [
        (one("vpt_deep"), "vpt_deep cannot be an input of a graph; allowed: adapter, .* --to onnx or --to pt2"),
        (one("ssf"), "ssf cannot"),
        (one("dtl"), "dtl cannot"),
        (one("convpass"), "convpass cannot"),
        (one("adapter_pfeiffer"), "adapter_pfeiffer cannot"),
        (one("bitfit"), "copies of the backbone's own weights cannot"),
        ((*one("lora"), *one("mlp_head")), "a MLPHead cannot"),
        ((adapter("mlp", scale="gate"),), "scale 'gate' cannot"),
    ],
)
def test_what_cannot_be_an_input_says_what_can(tuners: Tuners, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Bank.of(BACKBONE, {"x": moved(BACKBONE, tuners, 3, 0)})


def test_what_does_not_fit_a_bank_is_refused() -> None:
    bank = Bank.of(BACKBONE, {"one": solo("scalar")[0]})
    with pytest.raises(ConfigError, match=r"'two' has p_adapter.mlp.0, for which|has p_adapter in mlp at depth 0, for"):
        bank.pack(BACKBONE, {"two": solo("p_adapter")[0]})
    wide = moved(BACKBONE, (adapter("attn"),), 3, 0)
    with pytest.raises(ConfigError, match=r"of size \(10, 32\); allowed: at most \(3, 32\)"):
        bank.pack(BACKBONE, {"two": wide})
    with pytest.raises(ConfigError, match=r"head.weight of size \(4, 32\); allowed: at most \(3, 32\)"):
        bank.pack(BACKBONE, {"two": solo("scalar", 4)[0]})
    other = tiny_backbone(seed=1)
    with pytest.raises(ConfigError, match="is of a backbone with fingerprint"):
        bank.pack(other, {"two": moved(other, TAKEN["scalar"], 3, 0)})
    with pytest.raises(ConfigError, match="prefix_tuning and lora are both in attn at depth 0"):
        Bank.of(BACKBONE, {"one": solo("lora")[0], "two": solo("prefix_tuning")[0]})
    with pytest.raises(ConfigError, match="of width 10; allowed: at most --max-width, which is 4"):
        Bank.of(BACKBONE, {"one": wide}, max_width=4)
    with pytest.raises(ConfigError, match="3 classes; allowed: at least as many in the bank, not 2"):
        Bank.of(BACKBONE, {"one": wide}, max_classes=2)
