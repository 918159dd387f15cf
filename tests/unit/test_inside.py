"""Methods that reach into an op or train the backbone's own weights: formulas, placement, merging."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import timm
import torch
from torch import Generator, Tensor, nn

from tests.tools import TINY, adapter, batch, tiny_backbone, train
from utuning.architectures import OpSite
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.data.transforms import normalise
from utuning.errors import ConfigError, PlacementError
from utuning.member import Member
from utuning.merging import merged_model
from utuning.streams import run_streams
from utuning.taps import tapped
from utuning.tuners.lora import LoRA
from utuning.tuners.own_weights import biases, last_blocks
from utuning.tuners.rep_adapter import RepAdapter
from utuning.tuners.ssf import SSF

Tuners = tuple[TunerConfig, ...]
NUM_STEPS = 3


def one(method: str, *ops: str, **settings: object) -> Tuners:
    return (TunerConfig(method=method, ops=ops, settings=settings),)


MERGEABLE: dict[str, Tuners] = {
    "linear": (),
    "lora": one("lora"),
    "lora k, proj": one("lora", layers=("k", "proj"), alpha=16.0),
    "lora fc1": one("lora", "mlp", layers=("fc1",)),
    "lora everywhere": one("lora", "attn", "mlp", layers=("qkv", "fc1", "fc2"), lora_rank=2),
    "ssf": one("ssf"),
    "rep_adapter": one("rep_adapter", scale=1.0),
    "bitfit": one("bitfit"),
    "partial": one("partial", num_blocks=2),
    "full": one("full"),
    "lora and rep_adapter": (*one("lora"), *one("rep_adapter", "mlp")),
    "bitfit, ssf and lora": (*one("bitfit"), *one("ssf", "stem", "mlp", "norm"), *one("lora")),
}


@cache
def tiny() -> Backbone:
    return tiny_backbone()


def member(tuners: Tuners, backbone: Backbone | None = None, seed: int = 0) -> Member:
    return Member(backbone or tiny(), num_classes=5, config=train(seed=seed), tuners=tuners, steps_per_epoch=2)


def moved(tuners: Tuners, backbone: Backbone | None = None) -> Member:
    """A member some steps away from its initial values."""
    who = member(tuners, backbone)
    cohort = Cohort(backbone or tiny(), [who])
    for step in range(NUM_STEPS):
        cohort.step(batch(seed=step))
    return who


def scores(backbone: Backbone, who: Member, images: Tensor) -> Tensor:
    who.parts.eval()
    return who.logits(run_streams(backbone.trunk, [who], images)[0]).detach()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def shaken(tuner: nn.Module, by: float = 1.0) -> nn.Module:
    """Away from zero, so that every term counts."""
    with torch.no_grad():
        for i, parameter in enumerate(tuner.parameters()):
            parameter.add_(noise(*parameter.shape, seed=i), alpha=by)
    return tuner


def layer(site: OpSite, leaf: str) -> tuple[str, nn.Module]:
    return next((name, module) for name, module in site.layers.items() if name.endswith(leaf))


# Formulas, by hand on a real layer of timm's


def test_lora_adds_scaled_low_rank_updates_on_the_slices_of_q_and_v() -> None:
    site = tiny().trunk.site("attn", 1)
    lora = shaken(LoRA(site, lora_rank=2, alpha=3.0, generator=Generator().manual_seed(0)))
    assert isinstance(lora, LoRA)
    name, qkv = layer(site, "qkv")
    x = noise(2, 5, 32)
    (tapped_name,) = lora.taps()
    assert tapped_name == name
    given = lora.taps()[name](x, qkv(x)) - qkv(x)
    q, v = (lora.get_submodule(f"updates.{letter}") for letter in "qv")
    expected = torch.zeros(2, 5, 96)
    expected[..., :32] = 1.5 * x @ q.get_parameter("a").T @ q.get_parameter("b").T
    expected[..., 64:] = 1.5 * x @ v.get_parameter("a").T @ v.get_parameter("b").T
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(lora.taps()[name](x, qkv(x))[..., 32:64], qkv(x)[..., 32:64])


def test_lora_finds_separate_projections_and_whole_layers() -> None:
    layers = {name: nn.Linear(4, size) for name, size in {"a.q_proj": 4, "a.k_proj": 4, "a.v": 6, "a.kv": 8}.items()}
    site = OpSite(kind="attn", depth=0, width=4, run=nn.Identity(), layers=layers)
    lora = LoRA(site, layers=("q", "v", "kv"), lora_rank=1, generator=Generator().manual_seed(0))
    assert set(lora.taps()) == {"a.q_proj", "a.v", "a.kv"}
    sizes = {name: p.shape[0] for name, p in lora.named_parameters() if name.endswith(".b")}
    assert sizes == {"updates.q.b": 4, "updates.v_0.b": 6, "updates.v_1.b": 4, "updates.kv.b": 8}


@pytest.mark.parametrize("leaf", ["norm1", "qkv", "proj"])
def test_ssf_scales_and_shifts_each_layer(leaf: str) -> None:
    site = tiny().trunk.site("attn", 0)
    ssf = SSF(site, generator=Generator().manual_seed(0))
    name, module = layer(site, leaf)
    key = leaf if leaf == "norm1" else f"attn_{leaf}"
    gamma, beta = (ssf.get_parameter(f"after.{key}.{part}") for part in ("gamma", "beta"))
    x = noise(2, 5, 32)
    torch.testing.assert_close(ssf.taps()[name](x, module(x)), gamma * module(x) + beta)


def test_ssf_counts_channels_of_a_convolution_in_the_second_dimension() -> None:
    site = tiny().trunk.stem
    ssf = SSF(site, generator=Generator().manual_seed(0))
    ((name, conv),) = site.layers.items()
    gamma, beta = (ssf.get_parameter(f"after.proj.{part}") for part in ("gamma", "beta"))
    z = conv(noise(2, 3, 32, 32))
    expected = gamma[None, :, None, None] * z + beta[None, :, None, None]
    torch.testing.assert_close(ssf.taps()[name](z, z), expected)


@pytest.mark.parametrize(
    "frozen",
    [
        nn.Linear(6, 4, bias=False), nn.Conv2d(6, 4, 3, bias=False), nn.Conv2d(4, 4, 3, groups=4), nn.LayerNorm(6),
        nn.BatchNorm2d(6), nn.GroupNorm(2, 6), timm.layers.LayerNorm2d(6),
    ],
    ids=lambda module: str(module)[:14],
)  # fmt: skip
def test_ssf_folds_into_every_kind_of_layer(frozen: nn.Module) -> None:
    frozen = shaken(copy.deepcopy(frozen)).eval()
    first = isinstance(frozen, nn.Linear) or type(frozen) is nn.LayerNorm
    channels = frozen.weight.shape[1] * getattr(frozen, "groups", 1) if frozen.weight.ndim > 1 else len(frozen.weight)
    x = noise(2, 3, channels) if first else noise(2, channels, 5, 5)
    site = OpSite(kind="conv", depth=0, width=6, run=frozen, layers={"block.layer": frozen})
    ssf = shaken(SSF(site, generator=Generator().manual_seed(0)))
    assert isinstance(ssf, SSF)
    expected = ssf.taps()["block.layer"](x, frozen(x))
    ssf.merge(site.layers)
    torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-4)


def test_rep_adapter_adds_a_grouped_linear_map_of_the_norm() -> None:
    site = tiny().trunk.site("mlp", 2)
    rep = shaken(RepAdapter(site, scale=0.5, generator=Generator().manual_seed(0)))
    assert isinstance(rep, RepAdapter)
    name, norm = layer(site, "norm2")
    assert set(rep.taps()) == {name}
    z = norm(noise(2, 5, 32))
    hidden = z @ rep.down.weight.T + rep.down.bias
    up = torch.cat([hidden[..., 4 * g : 4 * g + 4] @ rep.up_weight[g].T for g in range(2)], dim=-1) + rep.up_bias
    torch.testing.assert_close(rep.taps()[name](z, z), z + 0.5 * up, rtol=1e-5, atol=1e-5)


# Initial values


def test_initial_values_are_the_methods_own_and_survive_placement() -> None:
    """timm gives linear layers made inside its constructors trunc-normal weights; these are made after it."""
    sites = tiny().trunk
    for method, built in (
        ("lora", LoRA(sites.site("attn", 0), generator=Generator().manual_seed(3))),
        ("ssf", SSF(sites.stem, generator=Generator().manual_seed(3))),
        ("rep_adapter", RepAdapter(sites.site("attn", 0), generator=Generator().manual_seed(3))),
    ):
        first = member(one(method), seed=3).placed[0].tuner
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), built.parameters(), strict=True))
    lora = LoRA(sites.site("attn", 0), lora_rank=64, generator=Generator().manual_seed(0)).get_submodule("updates.q")
    bound = 1 / 32**0.5
    assert 0.95 * bound < lora.get_parameter("a").abs().max() <= bound
    assert not lora.get_parameter("b").any()
    ssf = torch.cat([p for p in member(one("ssf")).parts["tuners"].parameters() if p.mean() > 0.5])
    assert abs(ssf.mean() - 1) < 2e-3 and abs(ssf.std() - 0.02) < 2e-3
    rep = RepAdapter(sites.site("attn", 0), generator=Generator().manual_seed(0))
    bound = (6 / 40) ** 0.5
    assert 0.95 * bound < rep.down.weight.abs().max() <= bound
    assert not any(p.any() for p in (rep.down.bias, rep.up_weight, rep.up_bias))


# Placement


@pytest.mark.parametrize(
    ("tuners", "error", "says"),
    [
        (one("lora", "mlp"), PlacementError, r"'q' or 'v' in mlp at depth 0; .* give layers such as \[fc1, fc2\]"),
        (one("lora", layers=("q", "qv")), PlacementError, "finds no layer 'qv' in attn .* layers are qkv, proj"),
        (one("lora", layers=()), PlacementError, "none is named"),
        (one("lora", "block", layers=("q",)), PlacementError, "cannot stand at op kind 'block'"),
        (one("lora", alpha=0.0), ConfigError, "scale 0"),
        (one("rep_adapter", num_groups=3), ConfigError, "num_groups 3 does not divide"),
        (one("partial", num_blocks=5), PlacementError, "num_blocks 5 .* give 1 to 4"),
        ((*one("lora"), *one("ssf")), PlacementError, "both stand inside attn at depth 0"),
    ],
)
def test_bad_placements_are_named(tuners: Tuners, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        member(tuners)


def test_sites_without_what_a_method_needs_are_named() -> None:
    bare = OpSite(kind="attn", depth=3, width=32, run=nn.Identity(), layers={"gamma": nn.PReLU()})
    generator = Generator()
    for build, says in (
        (LoRA, "has no linear layer; choose other ops"),
        (SSF, "finds no linear, convolution or norm layer in attn at depth 3"),
        (RepAdapter, "attn at depth 3 starts with none"),
    ):
        with pytest.raises(PlacementError, match=says):
            build(bare, generator=generator)


def test_ssf_passes_over_norms_that_hold_their_activation_and_ends_without_a_norm() -> None:
    for kind, layers, finds in (
        ("conv", {"conv": nn.Conv2d(4, 4, 1), "bn": timm.layers.BatchNormAct2d(4)}, {"conv"}),
        ("norm", {}, set()),
    ):
        site = OpSite(kind=kind, depth=0, width=4, run=nn.Identity(), layers=layers)
        assert set(SSF(site, generator=Generator()).taps()) == finds


def test_an_op_takes_those_of_several_ops_layers_that_it_has() -> None:
    names = member(one("lora", "attn", "mlp", layers=("q", "v", "fc1"))).tensors()
    assert {name.split(".")[2] + " " + name.split(".")[5] for name in names if name.startswith("tuners")} == {
        "attn q", "attn v", "mlp fc1",
    }  # fmt: skip


def test_own_weights_are_the_ones_that_the_rules_name() -> None:
    trunk = tiny().trunk
    names = {name for name, _ in trunk.model.named_parameters()}
    assert biases(trunk) == {name for name in names if name.endswith("bias")}
    assert last_blocks(trunk, num_blocks=2) == {n for n in names if n.startswith(("blocks.2.", "blocks.3.", "norm."))}


def test_the_last_block_has_its_parameters_outside_layers_and_the_work_that_leads_into_it() -> None:
    backbone = Backbone.load("vit_small_patch14_reg4_dinov2", weights="none", img_size=28, options={"depth": 2})
    assert "blocks.1.ls2.gamma" in last_blocks(backbone.trunk)
    trunk = copy.copy(tiny().trunk)
    trunk.model = copy.deepcopy(trunk.model)
    trunk.model.get_submodule("blocks.3").register_parameter("table", nn.Parameter(torch.zeros(1)))
    assert "blocks.3.table" in last_blocks(trunk)
    assert not any(name.startswith("blocks.2") for name in last_blocks(trunk))


# The engine


def test_taps_leave_no_hook_behind_even_when_the_op_raises() -> None:
    site = tiny().trunk.site("attn", 0)
    taps = LoRA(site, generator=Generator().manual_seed(0)).taps()
    with pytest.raises(RuntimeError), tapped(site.layers, [taps], [1]):
        site.run(noise(2, 5, 31))
    assert not any(module._forward_hooks for module in tiny().trunk.model.modules())


MIX: tuple[Tuners, ...] = (
    one("lora"), one("ssf"), one("rep_adapter"), one("bitfit"), one("partial"), (), (adapter("attn", "mlp"),)
)  # fmt: skip


def test_together_they_lose_what_each_loses_alone_and_change_only_their_own() -> None:
    frozen = {name: value.clone() for name, value in tiny().trunk.model.state_dict().items()}
    members = [member(tuners) for tuners in MIX]
    before = [{name: value.clone() for name, value in who.tensors().items()} for who in members]

    def losses(cohort: Cohort) -> Tensor:
        return torch.stack([cohort.step(batch(seed=step)) for step in range(NUM_STEPS)], dim=1)

    together = losses(Cohort(tiny(), members))
    alone = torch.cat([losses(Cohort(tiny(), [member(tuners)])) for tuners in MIX])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    for who, old in zip(members, before, strict=True):
        assert [name for name, value in who.tensors().items() if torch.equal(value, old[name])] == []
    model = tiny().trunk.model
    assert all(torch.equal(value, frozen[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_what_a_rule_does_not_name_stays_the_backbones() -> None:
    who = moved(one("partial"))
    assert who.own_trunk is not None
    for name, value in who.own_trunk.model.named_parameters():
        same = value is tiny().trunk.model.get_parameter(name)
        assert same == (not name.startswith(("blocks.3.", "norm.")))


# Merging


@pytest.mark.parametrize("name", MERGEABLE)
def test_a_merged_model_gives_the_members_scores(name: str) -> None:
    frozen = {key: value.clone() for key, value in tiny().trunk.model.state_dict().items()}
    who = moved(MERGEABLE[name])
    model = merged_model(tiny(), who)
    preprocessing = tiny().preprocessing
    images = normalise(batch(seed=9).images, preprocessing.mean, preprocessing.std)
    torch.testing.assert_close(model(images), scores(tiny(), who, images), rtol=0, atol=1e-5)
    if name != "linear":
        base = who.logits(tiny().trunk.model(images))
        assert not torch.allclose(model(images), base, atol=1e-3)
    assert all(torch.equal(value, frozen[key]) for key, value in tiny().trunk.model.state_dict().items())


def test_a_merged_model_is_timms_own() -> None:
    model = merged_model(tiny(), moved(MERGEABLE["bitfit, ssf and lora"]))
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5, **TINY)
    assert type(model) is type(plain)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.num_classes == 5 and not model.training
    plain.load_state_dict(model.state_dict())
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(plain.eval()(images), model(images))


TWO = {"depth": 2}


@pytest.mark.parametrize(
    ("name", "size", "options", "tuners"),
    [
        ("deit_tiny_distilled_patch16_224", 32, TWO, one("ssf")),
        ("deit3_small_patch16_224", 32, TWO, one("rep_adapter", scale=1.0)),
        ("vit_base_patch16_clip_224", 32, TWO, one("ssf")),
        ("vit_small_patch14_reg4_dinov2", 28, TWO, one("lora")),
        ("swin_tiny_patch4_window7_224", 112, {"depths": (1, 2)}, (*one("ssf", "enter", "norm"), *one("rep_adapter"))),
        ("convnext_tiny", 32, {"depths": (1, 1, 1, 1)}, one("lora", "conv", layers=("fc1", "fc2"))),
        ("resnet18", 32, {}, one("ssf")),
    ],
)
def test_other_layouts_merge_too(name: str, size: int, options: dict[str, object], tuners: Tuners) -> None:
    """Two classifiers, layer scale, an embedding without a bias, registers, stages, convolutions, no final norm."""
    backbone = Backbone.load(name, weights="none", img_size=size, options=options)
    state = {key: value.clone() for key, value in backbone.trunk.model.state_dict().items()}
    for i, (key, value) in enumerate(state.items()):
        if key in dict(backbone.trunk.model.named_parameters()):
            value.add_(noise(*value.shape, seed=i), alpha=0.05)  # layer scales start near zero and would hide all
    backbone = Backbone.from_config(backbone.config, state)
    who = member(tuners, backbone)
    for placed in who.placed:
        shaken(placed.tuner, by=0.1)
    images = noise(2, 3, size, size)
    expected = scores(backbone, who, images)
    assert not torch.allclose(who.logits(backbone.trunk.model(images)), expected, atol=1e-2)
    torch.testing.assert_close(merged_model(backbone, who)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tuners", "says"),
    [
        ((adapter("attn"),), "p_adapter cannot be merged: its role is 'beside'"),
        ((*one("lora"), *one("mlp_head")), "mlp_head cannot be merged: a timm model ends in a linear head"),
        (one("proxy_head"), "proxy_head cannot be merged"),
    ],
)
def test_what_cannot_be_merged_is_named(tuners: Tuners, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        merged_model(tiny(), member(tuners))


def test_layers_of_two_ops_and_other_classifiers_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = copy.copy(tiny().trunk)
    trunk.norm = replace(trunk.norm, layers={**trunk.norm.layers, **trunk.site("attn", 3).layers})
    shares = replace(tiny(), trunk=trunk)
    with pytest.raises(ConfigError, match=r"attn and norm at depth 3 share the layer blocks.3.attn.proj"):
        merged_model(shares, member(one("lora"), shares))
    monkeypatch.setattr(type(trunk.model), "get_classifier", lambda model: nn.Identity())
    with pytest.raises(ConfigError, match="cannot take a linear head of 32 features"):
        merged_model(tiny(), member(one("lora")))


def test_layers_that_cannot_hold_a_fold_are_named() -> None:
    for frozen, says in (
        (timm.layers.RmsNorm(6), "has no bias to fold a shift into"),
        (timm.layers.StdConv2d(6, 6, 1), "nothing can be folded into it"),
    ):
        site = OpSite(kind="conv", depth=0, width=6, run=frozen, layers={"norm": frozen})
        with pytest.raises(ConfigError, match=says):
            SSF(site, generator=Generator()).merge(site.layers)
    norm = nn.LayerNorm(6)
    for layers, says in (
        ({"norm": norm, "gate": nn.Linear(6, 1)}, "does not know whether layer gate"),
        ({"norm": norm, "sr": nn.Conv2d(6, 6, 2), "q": nn.Linear(6, 6)}, "does not know whether layer sr"),
        ({"norm": norm, "proj": nn.Linear(6, 6)}, "knows none of the layers norm, proj"),
    ):
        site = OpSite(kind="attn", depth=0, width=6, run=nn.Identity(), layers=layers, norm=norm)
        with pytest.raises(ConfigError, match=says):
            RepAdapter(site, generator=Generator()).merge(site.layers)


@pytest.mark.parametrize("name", MERGEABLE)
def test_saved_and_loaded_it_scores_the_same_to_the_bit(name: str) -> None:
    who = moved(MERGEABLE[name])
    other = member(MERGEABLE[name], seed=7)
    other.load_tensors({key: value.clone() for key, value in who.tensors().items()})
    images = noise(2, 3, 32, 32)
    assert torch.equal(scores(tiny(), who, images), scores(tiny(), other, images))
