"""Prefixes and prompts: the identities between their original and their parallel forms, and what they start from."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.testing import assert_close

from tests.tools import TINY, tiny_backbone, train
from utuning.architectures import OpSite
from utuning.backbone import Backbone
from utuning.configs import TunerConfig
from utuning.errors import ConfigError, PlacementError
from utuning.member import Member
from utuning.streams import run_streams
from utuning.tuners.attending import attend, split_heads
from utuning.tuners.instance_prompt import InstancePrompt
from utuning.tuners.p_prefix import PPrefix
from utuning.tuners.p_prompt import PPrompt
from utuning.tuners.prefix_tuning import PrefixTuning
from utuning.tuners.vpt import Prompt

TOLERANCE = {"rtol": 0, "atol": 1e-6}
PATCHES = 16


def draw(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def sharp(backbone: Backbone) -> Backbone:
    """In fp64, with weights large enough that attention is far from uniform."""
    model, generator = backbone.trunk.model.double(), draw()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return backbone


@pytest.fixture(scope="module", params=["class token", "registers and layer scale"])
def exact(request: pytest.FixtureRequest) -> Backbone:
    if request.param == "class token":
        return sharp(tiny_backbone())
    options = {**TINY, "patch_size": 14, "depth": 2}
    return sharp(Backbone.load("vit_small_patch14_reg4_dinov2", weights="none", img_size=56, options=options))


@pytest.fixture(scope="module")
def x_BND(exact: Backbone) -> Tensor:
    size = exact.preprocessing.img_size
    return exact.trunk.stem.run(torch.rand(3, 3, size, size, generator=draw(1), dtype=torch.float64))


def louder(tuner: nn.Module, seed: int = 2) -> nn.Module:
    """The same tuner in fp64 with large values everywhere."""
    with torch.no_grad():
        for parameter in tuner.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw(seed), dtype=torch.float64))
    return tuner


def prefix_share(q_BHNd: Tensor, k_BHNd: Tensor, k_1HMd: Tensor) -> Tensor:
    """lambda of each query and head, (B, H, N, 1): how much of a softmax over [K; Kpre] falls on Kpre.

    lambda = sum_i exp(q . kpre_i) / (sum_i exp(q . k_i) + sum_j exp(q . kpre_j)), scores divided by sqrt(d).
    Attn(Q, [K; Kpre], [V; Vpre]) = (1 - lambda) Attn(Q, K, V) + lambda Attn(Q, Kpre, Vpre).
    """
    root = q_BHNd.shape[-1] ** 0.5
    own, pre = (torch.logsumexp(q_BHNd @ k.mT / root, dim=-1, keepdim=True) for k in (k_BHNd, k_1HMd))
    return torch.sigmoid(pre - own)


def mixed(site: OpSite, x: Tensor, k_1HMd: Tensor, v_1HMd: Tensor) -> Tensor:
    """OP(x) + [lambda (Attn(Q, Kpre, Vpre) - Attn(Q, K, V))] Wo, from OP as timm runs it and the parallel pieces."""
    assert site.attention is not None
    q, k, v = site.attention.project(x)
    share = prefix_share(q, k, k_1HMd)
    assert 0.05 < float(share.detach().mean()) < 0.95
    change = share * (attend(q, k_1HMd, v_1HMd) - scaled_dot_product_attention(q, k, v))
    return site.run(x) + site.attention.output(change, False)


def test_the_share_is_the_papers_quotient(exact: Backbone, x_BND: Tensor) -> None:
    attention = exact.trunk.site("attn", 0).attention
    assert attention is not None
    q, k, _ = attention.project(x_BND)
    k_pre = torch.randn(1, 4, 5, 8, generator=draw(), dtype=torch.float64)
    own, pre = ((q @ keys.mT / 8**0.5).exp().sum(-1, keepdim=True) for keys in (k, k_pre))
    assert_close(prefix_share(q, k, k_pre), pre / (own + pre), **TOLERANCE)


def test_a_prefix_is_the_share_weighted_parallel_prefix(exact: Backbone, x_BND: Tensor) -> None:
    site = exact.trunk.site("attn", 1)
    original = louder(PrefixTuning(site, num_tokens=5, generator=draw()))
    k, v = split_heads(original.key, 4), split_heads(original.value, 4)
    assert_close(original(x_BND), mixed(site, x_BND, k, v), **TOLERANCE)


def test_the_parallel_prefix_is_its_formula(exact: Backbone, x_BND: Tensor) -> None:
    site, block = exact.trunk.site("block", 1), exact.trunk.model.blocks[1]
    tuner = louder(PPrefix(site, num_tokens=5, generator=draw()))
    q = block.attn.qkv(block.norm1(x_BND))[..., :32]
    heads = [slice(8 * head, 8 * head + 8) for head in range(4)]
    weights = [(q[..., h] @ tuner.key[0, :, h].T / 8**0.5).softmax(-1) for h in heads]
    z = torch.cat([w @ tuner.value[0, :, h] for w, h in zip(weights, heads, strict=True)], dim=-1)
    expected = tuner.scale.weight * block.ls1(z @ block.attn.proj.weight.T)
    assert_close(tuner(x_BND, x_BND), expected, **TOLERANCE)


def test_the_parallel_prompt_projects_with_the_frozen_keys_and_values(exact: Backbone, x_BND: Tensor) -> None:
    site, block = exact.trunk.site("mlp", 1), exact.trunk.model.blocks[1]
    tuner = louder(PPrompt(site, num_tokens=5, generator=draw()))
    k, v = block.attn.qkv(block.norm1(tuner.prompt))[..., 32:].chunk(2, dim=-1)
    as_prefix = PPrefix(site, num_tokens=5, generator=draw()).double()
    as_prefix.load_state_dict({"key": k, "value": v, "scale.weight": tuner.scale.weight})
    assert_close(tuner(x_BND, x_BND), as_prefix(x_BND, x_BND), **TOLERANCE)


def test_a_prompt_in_the_stream_is_the_share_weighted_parallel_prompt(exact: Backbone, x_BND: Tensor) -> None:
    attn, block = exact.trunk.site("attn", 0), exact.trunk.model.blocks[0]
    prompt = louder(Prompt(exact.trunk.site("block", 0), num_tokens=5, generator=draw()))
    k, v = block.attn.qkv(block.norm1(prompt.prompt))[..., 32:].chunk(2, dim=-1)
    left = block(prompt(x_BND, 0))
    middle = x_BND + mixed(attn, x_BND, split_heads(k, 4), split_heads(v, 4))
    first = x_BND.shape[1] - PATCHES
    without = torch.cat([left[:, :first], left[:, first + 5 :]], dim=1)
    assert_close(without, middle + exact.trunk.site("mlp", 0).run(middle), **TOLERANCE)


def test_vpt_deep_is_the_share_weighted_parallel_prompt_at_every_depth(exact: Backbone) -> None:
    tuners = (TunerConfig(method="vpt_deep", settings={"num_tokens": 5}),)
    who = Member(exact, num_classes=5, config=train(), tuners=tuners)
    louder(who.parts)
    size = exact.preprocessing.img_size
    images = torch.rand(3, 3, size, size, generator=draw(1), dtype=torch.float64)
    x = exact.trunk.stem.run(images)
    for block in exact.trunk.blocks:
        attn, mlp = block.ops
        prompt = who.tokens(block.whole)
        assert isinstance(prompt, Prompt)
        assert attn.attention is not None
        x = x + mixed(attn, x, *attn.attention.placeless(prompt.prompt))
        x = x + mlp.run(x)
    assert_close(run_streams(exact.trunk, [who], images)[0], exact.trunk.norm.run(x), **TOLERANCE)


@pytest.mark.parametrize("build", [Prompt, InstancePrompt])
def test_prompts_stand_before_the_image_tokens_and_replace_each_other(
    exact: Backbone, x_BND: Tensor, build: Callable[..., nn.Module]
) -> None:
    first = build(exact.trunk.site("block", 0), num_tokens=5, generator=draw()).double()
    second = build(exact.trunk.site("block", 1), num_tokens=3, generator=draw(1)).double()
    place = x_BND.shape[1] - PATCHES
    once = first(x_BND, 0)
    assert_close(once[:, place : place + 5], first.prompt.expand(3, -1, -1), rtol=0, atol=0)
    twice = second(once, 5)
    assert_close(twice[:, place : place + 3], second.prompt.expand(3, -1, -1), rtol=0, atol=0)
    assert_close(torch.cat([twice[:, :place], twice[:, place + 3 :]], dim=1), x_BND, rtol=0, atol=0)


def test_an_instance_prompt_is_its_formula(exact: Backbone, x_BND: Tensor) -> None:
    tuner = louder(InstancePrompt(exact.trunk.site("block", 0), num_tokens=5, bottleneck_dim=3, generator=draw()))
    place = x_BND.shape[1] - PATCHES
    hidden = gelu(x_BND[:, place:].mean(1) @ tuner.down.weight.T + tuner.down.bias)
    expected = tuner.prompt + (hidden @ tuner.up.T).reshape(3, 5, 32)
    assert_close(tuner(x_BND, 0)[:, place : place + 5], expected, **TOLERANCE)
    assert not torch.allclose(expected[0], expected[1])


def largest(values: Tensor) -> float:
    return float(values.detach().abs().max())


def test_initial_values_have_the_authors_bounds(backbone: Backbone) -> None:
    attn, block = backbone.trunk.site("attn", 0), backbone.trunk.site("block", 0)
    xavier = (6 / (20 * 32 + 32)) ** 0.5
    for values in (
        *PPrefix(attn, num_tokens=20, generator=draw()).parameters(),
        *PrefixTuning(attn, num_tokens=20, generator=draw()).parameters(),
        PPrompt(block, num_tokens=20, generator=draw()).prompt,
    ):
        assert largest(values) == 1.0 or 0.95 * xavier < largest(values) <= xavier  # 1: the scale
    for patch_size in (8, 16):
        bound = (6 / (3 * patch_size**2 + 32)) ** 0.5
        for build in (Prompt, InstancePrompt):
            prompt = build(block, num_tokens=20, patch_size=patch_size, generator=draw()).prompt
            assert 0.95 * bound < largest(prompt) <= bound
    normal = PrefixTuning(attn, num_tokens=100, init="normal", generator=draw())
    assert float(normal.key.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("build", [PPrefix, PPrompt])
def test_a_zero_scale_is_the_identity_and_needs_a_factor(backbone: Backbone, build: Callable[..., nn.Module]) -> None:
    site, x = backbone.trunk.site("mlp", 0), torch.randn(2, 17, 32, generator=draw())
    for scale in ("scalar", "channel"):
        assert largest(build(site, scale=scale, init="zero_scale", generator=draw())(x, x)) == 0
        assert largest(build(site, scale=scale, generator=draw())(x, x)) > 0
    for scale in ("none", "gate"):
        with pytest.raises(ConfigError, match=f"scale '{scale}' cannot; use scale 'scalar' or 'channel'"):
            build(site, scale=scale, init="zero_scale", generator=draw())


@pytest.mark.parametrize(
    ("build", "kind", "lacks", "says"),
    [
        (PPrefix, "block", {"attention": None}, "p_prefix needs a block with attention"),
        (PPrompt, "mlp", {"attention": None}, "softmax, and mlp at depth 0 belongs to none such"),
        (PrefixTuning, "attn", {"attention": None}, "prefix_tuning needs a block with attention"),
        (Prompt, "block", {"open_sequence": False}, "a prompt cannot enter the block at depth 0"),
        (InstancePrompt, "block", {"grid": None}, "a prompt cannot enter the block at depth 0"),
    ],
)
def test_sites_that_cannot_be_used_are_named(
    backbone: Backbone, build: Callable[..., nn.Module], kind: str, lacks: dict[str, object], says: str
) -> None:
    with pytest.raises(PlacementError, match=says):
        build(replace(backbone.trunk.site(kind, 0), **lacks), generator=draw())


def test_a_prefix_needs_attention_over_all_tokens(backbone: Backbone) -> None:
    site = backbone.trunk.site("attn", 0)
    assert site.attention is not None
    windows = replace(site, attention=replace(site.attention, whole=False))
    with pytest.raises(PlacementError, match="over a part of the tokens"):
        PrefixTuning(windows, generator=draw())
    PPrefix(windows, generator=draw())
