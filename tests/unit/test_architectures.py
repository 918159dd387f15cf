"""Op sites of timm's families: they compose to the model, tuners stand at them, and layouts do not matter to tuners."""

from functools import cache
from typing import Any

import pytest
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.tools import adapter, batch, train
from utuning.architectures import BlockSite, OpSite, Trunk
from utuning.architectures.efficientnet import EFFICIENTNET
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.errors import BackboneError, PlacementError
from utuning.member import Member
from utuning.streams import Streams, run_streams, shared_rows
from utuning.tuners.rows import EVERY_OP

TINY = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
SWIN = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
CONVNEXT = {"dims": (8, 16, 24, 32), "depths": (2, 1, 1, 1)}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit distilled": ("deit_tiny_distilled_patch16_224", TINY),
    "vit registers": ("vit_small_patch14_reg4_dinov2", TINY),
    "vit learned pool": ("vit_base_patch16_siglip_224", TINY),
    "eva separate": ("eva02_base_patch14_224", TINY),
    "eva joint, outer bias": ("eva_giant_patch14_224", TINY),
    "eva norm last": ("eva02_enormous_patch14_clip_224", TINY),
    "eva learned rope": ("vit_small_patch16_rope_mixed_224", TINY),
    "eva shared key heads": ("vit_5b_patch16_sapiens2", {**TINY, "num_kv_heads": 2}),
    "dinov3": ("vit_small_patch16_dinov3", TINY),
    "perception encoder": ("vit_pe_core_tiny_patch16_384", TINY),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swin v2": ("swinv2_tiny_window8_256", SWIN),
    "convnext": ("convnext_tiny", CONVNEXT),
    "convnext v2": ("convnextv2_atto", CONVNEXT),
    "convnext hidden head": ("convnext_large_mlp", {**CONVNEXT, "head_hidden_size": 12}),
    "mixer": ("mixer_s16_224", {"mlp_ratio": (0.125, 0.25)}),
    "resnet": ("test_resnet", {"layers": (2, 1, 2, 1), "channels": (8, 8, 8, 16)}),
    "resnet wide pool": ("test_resnet", {"global_pool": "catavgmax"}),
    "efficientnet": ("tinynet_e", {}),
}
ROTARY = ("eva separate", "eva joint, outer bias", "eva learned rope", "eva shared key heads", "dinov3")
TRAINED = ("vit distilled", *ROTARY[:3], "swin", "swin v2", "convnext", "mixer", "resnet", "efficientnet")


@cache
def backbone_of(family: str) -> Backbone:
    """A small model of the family for 32-px images, whose scales and statistics are no longer the neutral ones."""
    name, options = FAMILIES[family]
    plain = Backbone.load(name, weights="none", img_size=32, options=options)
    generator = torch.Generator().manual_seed(1)
    state = {key: noisy(key, value, generator) for key, value in plain.trunk.model.state_dict().items()}
    return Backbone.from_config(plain.config, state)


def noisy(key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value
    noise = 0.05 * torch.randn(value.shape, generator=generator)
    return value + (noise.abs() if key.endswith("running_var") else noise)


def images(size: int = 2) -> Tensor:
    return torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def member(backbone: Backbone, *tuners: TunerConfig) -> Member:
    return Member(backbone, num_classes=5, config=train(), tuners=tuners, steps_per_epoch=3)


def kinds(backbone: Backbone) -> tuple[str, ...]:
    have = {kind for kind, _ in backbone.trunk.where}
    return tuple(kind for kind in EVERY_OP if kind in have)


def losses(backbone: Backbone, groups: list[tuple[TunerConfig, ...]], num_steps: int = 3) -> Tensor:
    cohort = Cohort(backbone, [member(backbone, *tuners) for tuners in groups])
    return torch.stack([cohort.step(batch(size=4, seed=step)) for step in range(num_steps)], dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_is_timms_own_forward(family: str) -> None:
    backbone = backbone_of(family)
    features = run_streams(backbone.trunk, [member(backbone)], images())[0]
    assert features.shape == (2, backbone.num_features)
    torch.testing.assert_close(features, backbone.trunk.model(images()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_of_a_site_are_those_that_it_calls(family: str) -> None:
    """Once each, with all rows of an image together, so that a member's rows are a chunk of theirs."""
    backbone = backbone_of(family)
    layers = {name: layer for site in backbone.trunk.all_sites() for name, layer in site.layers.items()}
    called: dict[str, list[int]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(lambda _, args, output, name=name: called[name].append(len(args[0]) % 3))
        for name, layer in layers.items()
    ]
    run_streams(backbone.trunk, [member(backbone)], images(3))
    for hook in hooks:
        hook.remove()
    assert called == {name: [0] for name in layers} and layers


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_up_is_the_backbone(family: str) -> None:
    backbone = backbone_of(family)
    who = member(backbone, adapter(*kinds(backbone)))
    torch.testing.assert_close(
        run_streams(backbone.trunk, [who], images())[0], backbone.trunk.model(images()), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("family", TRAINED)
def test_an_adapter_trains_at_every_site_and_the_backbone_stays(family: str) -> None:
    backbone = backbone_of(family)
    frozen = {name: value.clone() for name, value in backbone.trunk.model.state_dict().items()}
    who = member(backbone, adapter(*kinds(backbone), bottleneck_dim=4))
    before = {name: value.clone() for name, value in who.tensors().items()}
    cohort = Cohort(backbone, [who])
    for step in range(3):
        cohort.step(batch(size=4, seed=step))
    assert [name for name, value in who.tensors().items() if torch.equal(value, before[name])] == []
    after = backbone.trunk.model.state_dict()
    assert [name for name in frozen if not torch.equal(frozen[name], after[name])] == []


@pytest.mark.parametrize("family", TRAINED)
def test_members_together_lose_what_each_loses_alone(family: str) -> None:
    backbone = backbone_of(family)
    first, *_, block = kinds(backbone)
    last = max(depth for kind, depth in backbone.trunk.where if kind == block)
    groups = [(adapter(first, init="xavier"),), (adapter(block, depths=(last,), init="xavier"),), ()]
    alone = torch.cat([losses(backbone, [group]) for group in groups])
    torch.testing.assert_close(losses(backbone, groups), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ("swin", "convnext", "resnet", "efficientnet"))
def test_an_adapter_is_added_to_each_pixel(family: str) -> None:
    backbone = backbone_of(family)
    trunk = backbone.trunk
    kind, depth = next(where for where in trunk.where if where[0] in ("attn", "conv"))
    who = member(backbone, adapter(kind, depths=(depth,), init="xavier"))
    streams = Streams(trunk, [who], shared_rows(trunk, [who], images()))
    x = trunk.stem.run(images())
    for below in range(depth):
        streams.through(below)
        x = through(trunk.blocks[below], x)
    block, site = trunk.blocks[depth], trunk.site(kind, depth)
    x = x if block.enter is None else block.enter.run(x)
    expected = site.merge(x, site.run(x) + by_pixel(site, who.placed[0].tuner, x))
    for op in block.ops[1:]:
        expected = op.merge(expected, op.run(expected))
    streams.through(depth)
    torch.testing.assert_close(streams.rows[0], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(site.merge(x, site.run(x)), expected, atol=1e-3)


def through(block: BlockSite, x: Tensor) -> Tensor:
    x = x if block.enter is None else block.enter.run(x)
    for op in block.ops:
        x = op.merge(x, op.run(x))
    return x


def by_pixel(site: OpSite, tuner: torch.nn.Module, x: Tensor) -> Tensor:
    """The tuner's output for one pixel after the other."""
    added = torch.empty_like(x)
    last = site.layout.name == "BHWD"
    height, width = x.shape[1:3] if last else x.shape[2:]
    for i in range(height):
        for j in range(width):
            pixel = (slice(None), i, j) if last else (slice(None), slice(None), i, j)
            added[pixel] = tuner(x[pixel], None)
    return added


@pytest.mark.parametrize("family", ("vit registers", "perception encoder", *ROTARY))
def test_attention_is_the_ops_own(family: str) -> None:
    trunk = backbone_of(family).trunk
    x_BND = trunk.stem.run(images())
    for block in trunk.blocks:
        site = block.ops[0]
        assert site.attention is not None
        q, k, v = site.attention.project(x_BND)
        given = site.attention.output(scaled_dot_product_attention(q, k, v), True)
        torch.testing.assert_close(given, site.run(x_BND), rtol=0, atol=1e-5)
        torch.testing.assert_close(site.attention.queries(x_BND), q, rtol=0, atol=1e-5)
        placeless_k, placeless_v = site.attention.placeless(x_BND)
        torch.testing.assert_close(placeless_v, v)
        num_first = x_BND.shape[1] - 16
        torch.testing.assert_close(placeless_k[:, :, :num_first], k[:, :, :num_first])


def test_attention_of_a_window_is_the_ops_own() -> None:
    """One window over the whole grid, and no position bias: then it is an attention over all tokens."""
    options = {"embed_dim": 16, "depths": (1,), "num_heads": (2,), "window_size": 8}
    plain = Backbone.load("swin_tiny_patch4_window7_224", weights="none", img_size=32, options=options)
    model = plain.trunk.model
    model.get_parameter("layers.0.blocks.0.attn.relative_position_bias_table").zero_()
    site = plain.trunk.site("attn", 0)
    assert site.attention is not None and not site.attention.whole and site.grid == (8, 8)
    x_BHWD = plain.trunk.stem.run(images())
    q, k, v = site.attention.project(site.layout.tokens(x_BHWD))
    given = site.attention.output(scaled_dot_product_attention(q, k, v), True)
    torch.testing.assert_close(site.layout.stream(given, x_BHWD), site.run(x_BHWD), rtol=0, atol=1e-5)
    torch.testing.assert_close(site.attention.queries(site.layout.tokens(x_BHWD)), q)
    for placeless, whole in zip(site.attention.placeless(site.layout.tokens(x_BHWD)), (k, v), strict=True):
        torch.testing.assert_close(placeless, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_any_width_are_pooled(family: str) -> None:
    backbone = backbone_of(family)
    pooled = backbone.trunk.pool(torch.ones(2, 30, 6))
    assert pooled.shape == (2, 12 if family == "resnet wide pool" else 6)
    torch.testing.assert_close(pooled, torch.ones_like(pooled))


def test_blocks_that_change_the_shape_have_no_site_for_an_adapter() -> None:
    backbone = backbone_of("resnet")
    x, changing = backbone.trunk.stem.run(images()), []
    for depth, block in enumerate(backbone.trunk.blocks):
        y = through(block, x)
        changing += [depth] if y.shape != x.shape else []
        x = y
    assert changing == [depth for kind, depth in backbone.trunk.where if kind == "enter"] != []
    assert not {(kind, depth) for kind in ("conv", "block") for depth in changing} & {*backbone.trunk.where}
    with pytest.raises(PlacementError, match="conv at depths"):
        member(backbone, adapter("conv", depths=(changing[0],)))


def test_every_kind_of_efficientnet_block() -> None:
    """Each once with a skip and once without."""
    stages = [["cn_r2_k3_s1_e1_c8_skip"], ["ds_r2_k3_s1_e1_c16_se0.25"], ["er_r2_k3_s1_e2_c24"], ["ir_r2_k5_s2_e2_c8"]]
    torch.manual_seed(0)
    model = EfficientNet(decode_arch_def(stages), num_classes=0, num_features=16, stem_size=4, fix_stem=True).eval()
    trunk = Trunk(model, EFFICIENTNET)
    assert [kind for kind, _ in trunk.where[1:-1]] == ["enter", "conv", "block"] * 4
    x = trunk.stem.run(images())
    for block in trunk.blocks:
        x = through(block, x)
    torch.testing.assert_close(trunk.norm.run(x), model(images()), rtol=0, atol=1e-6)


def test_convolutional_networks_take_their_image_size_from_the_images() -> None:
    assert backbone_of("resnet").preprocessing.img_size == 32
    assert backbone_of("convnext hidden head").num_features == 12


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seresnet18", {"channels": (4, 4, 4, 4)}),
        ("vit_small_patch16_18x2_224", TINY),
        ("gmlp_ti16_224", {}),
    ],
)
def test_blocks_of_other_types_do_not_match(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BackboneError, match="no op sites are known"):
        Backbone.load(name, weights="none", options=options)
