"""Parameter counts on ViT-B/16 of methods inside ops and of own weights, against published counts and their formulas.

Published, in millions without a head: LoRA 0.29, SSF 0.21, RepAdapter 0.22 (its weights without biases), BitFit 0.10.
"""

import pytest

from tests.tools import train
from utuning.backbone import Backbone
from utuning.configs import TunerConfig
from utuning.member import Member


def built(backbone: Backbone, method: str, **settings: object) -> Member:
    ops = ("mlp",) if settings.get("layers") == ("fc1", "fc2") else ()
    tuners = (TunerConfig(method=method, ops=ops, settings=settings),)
    return Member(backbone, num_classes=100, config=train(), tuners=tuners)


@pytest.mark.parametrize(
    ("method", "settings", "part", "count"),
    [
        ("lora", {}, "tuners", 294_912),
        ("lora", {"lora_rank": 4}, "tuners", 147_456),
        ("lora", {"layers": ("qkv",)}, "tuners", 294_912),
        ("lora", {"layers": ("q", "k", "v")}, "tuners", 442_368),
        ("lora", {"layers": ("fc1", "fc2")}, "tuners", 737_280),
        ("ssf", {}, "tuners", 205_824),
        ("rep_adapter", {}, "tuners", 239_808),
        ("bitfit", {}, "backbone", 102_912),
        ("partial", {}, "backbone", 7_089_408),
        ("partial", {"num_blocks": 2}, "backbone", 14_177_280),
        ("partial", {"num_blocks": 4}, "backbone", 28_353_024),
        ("full", {}, "backbone", 85_798_656),
    ],
)
def test_counts_equal_the_oracles(
    vit_b16: Backbone, method: str, settings: dict[str, object], part: str, count: int
) -> None:
    counts = built(vit_b16, method, **settings).num_parameters()
    assert counts == {"tuners": 0, "backbone": 0, "head": 76_900, part: count}


def test_rep_adapters_published_count_is_its_weights(vit_b16: Backbone) -> None:
    names = built(vit_b16, "rep_adapter").parts["tuners"].named_parameters()
    assert sum(p.numel() for name, p in names if "bias" not in name) == 221_184


@pytest.mark.parametrize(("method", "count"), [("mlp_head", 2 * 590_592 + 76_900), ("proxy_head", 98_432 + 12_800)])
def test_heads_have_their_formulas_count(vit_b16: Backbone, method: str, count: int) -> None:
    assert built(vit_b16, method).num_parameters() == {"tuners": 0, "head": count, "backbone": 0}
