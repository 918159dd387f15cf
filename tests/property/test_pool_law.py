"""The law: in a batch of mixed tuners each row has the logits that its bundle alone gives."""

from collections.abc import Callable
from functools import cache

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tests.tools import adapter, batch, tiny_backbone, train
from tests.unit.test_architectures import backbone_of
from tests.unit.test_methods import TABLE
from utuning.backbone import Backbone
from utuning.configs import TunerConfig
from utuning.member import Member
from utuning.pool import TunerPool
from utuning.streams import run_streams

BACKBONE = tiny_backbone()
IMAGES = batch(size=5).images
ALIKE = ("dual", "lora", "p_prefix", "linear")
Spec = tuple[str, int, int]
"""What is tuned, by its name in the table; the number of classes; a seed."""
SPEC = st.tuples(
    st.one_of(st.sampled_from(ALIKE), st.sampled_from(sorted(TABLE))), st.integers(1, 4), st.integers(0, 3)
)
ROWS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, len(IMAGES) - 1)), max_size=16)


def moved(backbone: Backbone, tuners: tuple[TunerConfig, ...], num_classes: int, seed: int) -> Member:
    """A member none of whose values is where it began."""
    member = Member(backbone, num_classes=num_classes, config=train(seed=seed), tuners=tuners)
    generator = torch.Generator().manual_seed(seed)
    member.load_tensors(
        {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in member.tensors().items()}
    )
    return member


@torch.no_grad()
def alone(backbone: Backbone, member: Member) -> Tensor:
    """Logits (B, C) of a member without a pool."""
    return member.logits(run_streams(backbone.trunk, [member], backbone.normalise(IMAGES))[0])


@cache
def solo(spec: Spec) -> tuple[Member, Tensor]:
    name, num_classes, seed = spec
    member = moved(BACKBONE, TABLE[name], num_classes, seed)
    return member, alone(BACKBONE, member)


def assert_rows(pool: TunerPool, rows: list[tuple[str, int]], expected: Callable[[str], Tensor]) -> None:
    names, images = [name for name, _ in rows], [image for _, image in rows]
    logits = pool.predict(IMAGES, names, images)
    assert len(logits) == len(rows)
    for found, (name, image) in zip(logits, rows, strict=True):
        torch.testing.assert_close(found, expected(name)[image], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(SPEC, min_size=1, max_size=8), ROWS)
def test_each_row_of_a_mixed_batch_is_its_tuner_alone(specs: list[Spec], rows: list[tuple[int, int]]) -> None:
    pool = TunerPool(BACKBONE)
    for place, spec in enumerate(specs):
        pool.load(str(place), solo(spec)[0])
    named = [(str(tuner % len(specs)), image) for tuner, image in rows]
    assert_rows(pool, named, lambda name: solo(specs[int(name)])[1])


@pytest.mark.parametrize("name", TABLE)
def test_tuners_of_one_configuration_run_as_one(name: str) -> None:
    pool = TunerPool(BACKBONE)
    for seed in range(3):
        pool.load(str(seed), solo((name, 2, seed))[0])
    rows = [("1", 0), ("0", 4), ("1", 3), ("2", 0), ("0", 1), ("2", 2)]
    assert_rows(pool, rows, lambda seed: solo((name, 2, int(seed)))[1])
    assert_rows(pool, rows[:-1], lambda seed: solo((name, 2, int(seed)))[1])


@pytest.mark.parametrize("family", ["swin", "convnext", "eva separate", "resnet"])
def test_it_holds_on_every_layout(family: str) -> None:
    backbone = backbone_of(family)
    kinds = {kind for kind, _ in backbone.trunk.where}
    tuners: dict[str, tuple[TunerConfig, ...]] = {
        "adapter": (adapter(*sorted(kinds & {"attn", "mlp", "conv"})),),
        "ssf": (TunerConfig(method="ssf"),),
        "bitfit": (TunerConfig(method="bitfit"),),
        "linear": (),
    }
    pool, expected = TunerPool(backbone), {}
    for name, each in tuners.items():
        for seed in range(2):
            member = moved(backbone, each, 2 + seed, seed)
            pool.load(f"{name}{seed}", member)
            expected[f"{name}{seed}"] = alone(backbone, member)
    rows = [(name, place % len(IMAGES)) for place, name in enumerate([*expected, *reversed(expected)])]
    assert_rows(pool, rows, lambda name: expected[name])
