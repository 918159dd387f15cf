"""Adapters: their formulas by hand, where they stand, what they start from; and what every method here promises."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, relu
from torch.testing import assert_close

from tests.tools import TINY, batch, train
from utuning.architectures import OpSite
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.errors import ConfigError, PlacementError
from utuning.member import Member
from utuning.streams import run_streams
from utuning.tuners.adaptformer import AdaptFormer
from utuning.tuners.convpass import Convpass
from utuning.tuners.sequential_adapter import SequentialAdapter

TIGHT = {"rtol": 0, "atol": 1e-5}


def tuner(method: str, *ops: str, **settings: Any) -> TunerConfig:
    return TunerConfig(method=method, ops=ops, settings=settings)


TUNED: dict[str, tuple[TunerConfig, ...]] = {
    "p_prefix": (tuner("p_prefix", "attn", "mlp", "block"),),
    "p_prefix from zero": (tuner("p_prefix", "attn", init="zero_scale", scale="scalar"),),
    "p_prompt": (tuner("p_prompt", "attn", "mlp", "block", scale="gate"),),
    "p_prompt from zero": (tuner("p_prompt", "mlp", init="zero_scale"),),
    "prefix_tuning": (tuner("prefix_tuning"),),
    "vpt_shallow": (tuner("vpt_shallow", num_tokens=3),),
    "vpt_deep": (tuner("vpt_deep", num_tokens=4),),
    "instance_prompt": (tuner("instance_prompt", num_tokens=3),),
    "adapter": (tuner("adapter"),),
    "adapter, xavier": (tuner("adapter", init="xavier", scale="gate"),),
    "adapter_houlsby": (tuner("adapter_houlsby"),),
    "adapter_pfeiffer": (tuner("adapter_pfeiffer"),),
    "adapter_plus": (tuner("adapter_plus", "attn", "mlp"),),
    "adaptformer": (tuner("adaptformer"),),
    "scaled_parallel": (tuner("scaled_parallel"),),
    "convpass": (tuner("convpass"),),
    "mam": (tuner("mam"),),
    "several": (tuner("vpt_deep", num_tokens=2), tuner("prefix_tuning"), tuner("convpass"), tuner("p_prompt", "block")),
}
IDENTITIES = ("p_prefix from zero", "p_prompt from zero", "adapter", "adaptformer", "scaled_parallel", "convpass")


def member(backbone: Backbone, name: str, **config: object) -> Member:
    tuners = TUNED.get(name, ())
    return Member(backbone, num_classes=5, config=train(**config), tuners=tuners, steps_per_epoch=2)


def features(backbone: Backbone, who: Member) -> Tensor:
    images = torch.rand(2, 3, 32, 32, generator=Generator().manual_seed(0))
    who.end_drop_path()
    with torch.no_grad():
        return run_streams(backbone.trunk, [who], images)[0]


def trained(backbone: Backbone, names: list[str]) -> tuple[list[Member], Tensor]:
    """Members after three steps together, and their losses."""
    members = [member(backbone, name, drop_path=0.1) for name in names]
    cohort = Cohort(backbone, members)
    return members, torch.stack([cohort.step(batch(seed=step, padding=step)) for step in range(3)], dim=1)


@pytest.fixture(scope="module")
def mixed(backbone: Backbone) -> tuple[dict[str, Member], dict[str, Tensor]]:
    names = ["linear", *TUNED]
    members, losses = trained(backbone, names)
    return dict(zip(names, members, strict=True)), dict(zip(names, losses, strict=True))


@pytest.mark.parametrize("name", TUNED)
def test_together_is_alone(backbone: Backbone, mixed: tuple[dict[str, Member], dict[str, Tensor]], name: str) -> None:
    assert_close(mixed[1][name], trained(backbone, [name])[1][0], **TIGHT)


@pytest.mark.parametrize("name", TUNED)
def test_every_trainable_tensor_changes_within_three_steps(
    backbone: Backbone, mixed: tuple[dict[str, Member], dict[str, Tensor]], name: str
) -> None:
    before, after = member(backbone, name).tensors(), mixed[0][name].tensors()
    assert [key for key in before if torch.equal(before[key], after[key])] == []


@pytest.mark.parametrize("name", TUNED)
def test_tensors_make_the_same_member_again(
    backbone: Backbone, mixed: tuple[dict[str, Member], dict[str, Tensor]], name: str
) -> None:
    again = member(backbone, name, seed=9)
    again.load_tensors(mixed[0][name].tensors())
    assert_close(features(backbone, again), features(backbone, mixed[0][name]), rtol=0, atol=0)
    owned = {id(p) for p in again.parameters()}
    assert not owned & {id(p) for p in backbone.trunk.model.parameters()}


@pytest.mark.parametrize("name", TUNED)
def test_who_starts_as_the_identity(backbone: Backbone, name: str) -> None:
    same = torch.allclose(
        features(backbone, member(backbone, name)), features(backbone, member(backbone, "")), atol=1e-6
    )
    assert same == (name in IDENTITIES)


def test_the_backbone_stays_and_no_global_random_number_is_drawn(backbone: Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.trunk.model.state_dict().items()}
    random = torch.get_rng_state()
    trained(backbone, list(TUNED))
    assert torch.equal(random, torch.get_rng_state())
    after = backbone.trunk.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in backbone.trunk.model.parameters())


def test_bf16_trains_all_of_them(backbone: Backbone) -> None:
    members = [member(backbone, name) for name in TUNED]
    assert Cohort(backbone, members, precision="bf16").step(batch()).isfinite().all()


def loud(build: Callable[..., nn.Module], site: OpSite, **settings: Any) -> Any:
    """A tuner with large values everywhere, so that every term of its formula counts."""
    built = build(site, generator=Generator().manual_seed(0), **settings)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=Generator().manual_seed(1)))
    return built


def pair() -> tuple[Tensor, Tensor]:
    x, op = torch.randn(2, 3, 17, 32, generator=Generator().manual_seed(2))
    return x, op


def bottleneck(built: Any, z: Tensor, phi: Callable[[Tensor], Tensor]) -> Tensor:
    return phi(z @ built.down.weight.T + built.down.bias) @ built.up.weight.T + built.up.bias


@pytest.mark.parametrize("position", ["after_op", "after_skip", "after_skip_norm"])
def test_a_sequential_adapter_is_its_formula(backbone: Backbone, position: str) -> None:
    x, op = pair()
    built = loud(SequentialAdapter, backbone.trunk.site("mlp", 0), position=position, scale="channel")
    z = op if position == "after_op" else x + op
    if position == "after_skip_norm":
        z = layer_norm(z, (32,), built.norm.weight, built.norm.bias, 1e-6)
    assert_close(built(x, op), built.scale.weight * bottleneck(built, z, gelu), rtol=1e-5, atol=1e-4)


def test_after_the_skip_at_attention_is_before_the_mlps_norm(backbone: Backbone) -> None:
    """Adapter+'s equations, u = x + f; out = u + A(u), walked by hand through timm's blocks."""
    who = member(backbone, "adapter_plus")
    images = torch.rand(2, 3, 32, 32, generator=Generator().manual_seed(0))
    x = backbone.trunk.stem.run(images)
    for block, sites in zip(backbone.trunk.model.blocks, backbone.trunk.blocks, strict=True):
        attn, mlp = (who.beside(site) for site in sites.ops)
        assert isinstance(attn, SequentialAdapter)
        assert isinstance(mlp, SequentialAdapter)
        u = x + block.attn(block.norm1(x))
        u = u + attn.scale(bottleneck(attn, u, gelu))
        x = u + block.mlp(block.norm2(u))
        x = x + mlp.scale(bottleneck(mlp, x, gelu))
    assert_close(features(backbone, who), backbone.trunk.norm.run(x), **TIGHT)


@pytest.mark.parametrize("init", ["lora", "houlsby", "bert", "xavier"])
def test_sequential_inits(init: str) -> None:
    site = OpSite(kind="mlp", depth=0, width=400, run=lambda x: x)
    built = SequentialAdapter(site, bottleneck_dim=100, init=init, generator=Generator().manual_seed(0))  # type: ignore[arg-type]
    built.requires_grad_(False)
    down, up = built.down.weight, built.up.weight
    assert float(down.abs().max()) > 0
    if init == "lora":
        assert float(down.abs().max()) <= 1 / 20
        assert 0.04 < float(built.down.bias.abs().max()) <= 1 / 20
        assert not up.any() and not built.up.bias.any()
    elif init == "xavier":
        assert all(0.9 < float(w.abs().max()) / math.sqrt(6 / 500) <= 1 for w in (down, up))
        assert all(0 < float(layer.bias.abs().max()) < 1e-5 for layer in (built.down, built.up))
    else:
        assert not built.down.bias.any() and not built.up.bias.any()
        cut, std = (0.02, 0.0088) if init == "houlsby" else (0.2, 0.02)  # cutting at two std leaves 0.88 of it
        assert all(float(w.abs().max()) <= cut and abs(float(w.std()) / std - 1) < 0.02 for w in (down, up))


def test_adaptformer_is_its_formula(backbone: Backbone) -> None:
    x, op = pair()
    for scale in (0.1, 4.0):
        built = loud(AdaptFormer, backbone.trunk.site("mlp", 0), bottleneck_dim=6, scale=scale)
        assert_close(built(x, op), scale * bottleneck(built, x, relu), rtol=1e-5, atol=1e-4)


def quick_gelu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-1.702 * z))


def convolved(built: Convpass, normed: Tensor, num_before: int) -> Tensor:
    """Every token before the image as a map of one pixel under the whole kernel."""
    z = quick_gelu(normed @ built.down.weight.T + built.down.bias)
    maps = [z[:, i].reshape(-1, 8, 1, 1) for i in range(num_before)]
    maps.append(z[:, num_before:].transpose(1, 2).reshape(-1, 8, 4, 4))
    done = [conv2d(each, built.conv.weight, built.conv.bias, padding=1).flatten(2).transpose(1, 2) for each in maps]
    return 0.1 * (quick_gelu(torch.cat(done, dim=1)) @ built.up.weight.T + built.up.bias)


@pytest.mark.parametrize("kind", ["attn", "mlp"])
def test_convpass_is_its_formula(backbone: Backbone, kind: str) -> None:
    x, op = pair()
    site, block = backbone.trunk.site(kind, 1), backbone.trunk.model.blocks[1]
    built = loud(Convpass, site)
    normed = (block.norm1 if kind == "attn" else block.norm2)(x)
    assert_close(built(x, op), convolved(built, normed, 1), rtol=1e-4, atol=1e-4)


def test_convpass_takes_registers_one_by_one() -> None:
    backbone = Backbone.load(
        "vit_small_patch14_reg4_dinov2", weights="none", img_size=56, options={**TINY, "patch_size": 14, "depth": 1}
    )
    site = backbone.trunk.site("attn", 0)
    x = backbone.trunk.stem.run(torch.rand(2, 3, 56, 56, generator=Generator().manual_seed(0)))
    assert x.shape[1] == 5 + 16
    built = loud(Convpass, site)
    assert site.norm is not None
    assert_close(built(x, x), convolved(built, site.norm(x), 5), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("lacks", "says"), [({"norm": None}, "with no norm"), ({"grid": None}, "on no grid")])
def test_convpass_needs_a_norm_and_a_grid(backbone: Backbone, lacks: dict[str, Any], says: str) -> None:
    with pytest.raises(PlacementError, match=says):
        Convpass(replace(backbone.trunk.site("attn", 0), **lacks), generator=Generator())


@pytest.mark.parametrize("build", [AdaptFormer, Convpass])
def test_a_constant_scale_of_zero_is_refused(backbone: Backbone, build: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="scale 0"):
        build(backbone.trunk.site("mlp", 0), scale=0.0, generator=Generator())
