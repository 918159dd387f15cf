"""Parameter counts of the side networks on ViT-B/16, without head, against published ones.

UniPT's are its formulas on 13 states. LST is printed as 2.38M (V-PETL Bench) and, with the CIFAR-100 head, 0.93M
(Res-Tuning); the bypass, with that head, as 0.27M and 0.46M (Res-Tuning); DTL as 0.04M (V-PETL Bench).
"""

import pytest

from tests.tools import train
from utuning.backbone import Backbone
from utuning.configs import TunerConfig
from utuning.member import Member

CIFAR_100_HEAD = 76_900


def count(backbone: Backbone, method: str, **settings: object) -> int:
    tuner = TunerConfig(method=method, settings=settings)
    member = Member(backbone, num_classes=100, config=train(), tuners=(tuner,))
    tuners = member.num_parameters()["tuners"]
    assert sum(p.numel() for p in member.parameters()) == tuners + CIFAR_100_HEAD
    return tuners


@pytest.mark.parametrize(("downsample", "printed"), [(1, "8.88"), (2, "4.29"), (4, "2.11"), (8, "1.05")])
def test_unipt(vit_b16: Backbone, downsample: int, printed: str) -> None:
    assert f"{count(vit_b16, 'unipt', downsample=downsample) / 1e6:.2f}" == printed


@pytest.mark.parametrize(("reduction", "parameters"), [(16, 856_860), (8, 2_376_492)])
def test_ladder(vit_b16: Backbone, reduction: int, parameters: int) -> None:
    assert count(vit_b16, "ladder", reduction=reduction) == parameters


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"vertical": False}, 193_656),
        ({"lateral": False}, 193_656),
        ({}, 387_312),
        ({"lateral": False, "vertical": False}, 0),
    ],
)
def test_bypass(vit_b16: Backbone, settings: dict[str, object], parameters: int) -> None:
    assert count(vit_b16, "bypass", bottleneck_dim=10, **settings) == parameters


def test_dtl(vit_b16: Backbone) -> None:
    assert f"{count(vit_b16, 'dtl', bottleneck_dim=2) / 1e6:.2f}" == "0.04"
    assert count(vit_b16, "dtl", bottleneck_dim=16, conv="none") == 2 * 12 * 768 * 16
