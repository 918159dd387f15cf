"""Parameter counts on ViT-B/16, against counts that papers publish or that follow from their formulas.

U-Tuning's and Res-Tuning's tables print them in millions with the CIFAR-100 head: 0.11, 0.48, 0.67; 0.08 and 0.17 for
VPT, 0.26 for prefix tuning, 0.27 for the adapter, 1.26 for AdaptFormer, 10.08 for MAM.
"""

import pytest

from tests.tools import adapter, train
from utuning.backbone import Backbone
from utuning.configs import TunerConfig
from utuning.member import Member

DUAL, TRI = ("attn", "mlp"), ("attn", "mlp", "block")


def method(name: str, *ops: str, **settings: object) -> TunerConfig:
    """A method where it stands by itself, or at the given op kinds."""
    return TunerConfig(method=name, ops=ops, settings=settings)


@pytest.mark.parametrize(
    ("tuners", "count", "with_head"),
    [
        ((), 0, 76_900),
        ((adapter(*DUAL, scale="none"),), 387_312, 464_212),
        ((adapter(*DUAL, scale="channel"),), 405_744, 482_644),
        ((adapter(*DUAL, scale="none", depths="first"),), 32_276, 109_176),
        ((adapter(*DUAL, scale="channel", depths="first"),), 33_812, 110_712),
        ((adapter(*TRI, scale="none"),), 580_968, 657_868),
        ((adapter(*TRI, scale="channel"),), 608_616, 685_516),
        ((adapter("mlp", scale="none", bottleneck_dim=8),), 156_768, 233_668),
        ((adapter("mlp", scale="channel", bottleneck_dim=8),), 165_984, 242_884),
        ((adapter("mlp", scale="none", bottleneck_dim=10),), 193_656, 270_556),
        ((adapter("mlp", scale="none", bottleneck_dim=12),), 230_544, 307_444),
        ((adapter("mlp", scale="none", bottleneck_dim=64),), 1_189_632, 1_266_532),
        ((adapter(*DUAL), method("p_prefix", "block", scale="none")), 590_064, 666_964),
        ((adapter(*DUAL), method("p_prefix", "block")), 599_280, 676_180),
        ((adapter(*DUAL), method("p_prompt", "block")), 507_120, 584_020),
        ((method("adapter"),), 193_656, 270_556),
        ((method("adapter", bottleneck_dim=8),), 156_768, 233_668),
        ((method("adapter", bottleneck_dim=12),), 230_544, 307_444),
        ((method("adapter_houlsby"),), 387_312, 464_212),
        ((method("adapter_pfeiffer"),), 212_088, 288_988),
        ((method("adapter_plus"),), 165_984, 242_884),
        ((method("adaptformer"),), 1_189_632, 1_266_532),
        ((method("scaled_parallel"),), 9_452_544, 9_529_444),
        ((method("convpass"),), 327_552, 404_452),
        ((method("convpass", "attn"),), 163_776, 240_676),
        ((method("prefix_tuning"),), 184_320, 261_220),
        ((method("mam"),), 10_005_504, 10_082_404),
        ((method("vpt_shallow"),), 7_680, 84_580),
        ((method("vpt_deep"),), 92_160, 169_060),
        ((method("vpt_deep", num_tokens=73),), 672_768, 749_668),
        ((method("instance_prompt"),), 75_272, 152_172),
    ],
)
def test_counts_equal_the_oracles(
    vit_b16: Backbone, tuners: tuple[TunerConfig, ...], count: int, with_head: int
) -> None:
    member = Member(vit_b16, num_classes=100, config=train(), tuners=tuners)
    assert member.num_parameters()["tuners"] == count
    assert sum(p.numel() for p in member.parameters()) == with_head


def test_the_backbone_has_the_published_size(vit_b16: Backbone) -> None:
    assert vit_b16.num_parameters == 85_798_656
