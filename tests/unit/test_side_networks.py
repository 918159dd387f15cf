"""Side networks: each formula recomputed by hand, and what all of them promise."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.tools import adapter, batch, tiny_backbone, train
from utuning.architectures import Trunk
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.data.transforms import normalise
from utuning.errors import ConfigError, PlacementError
from utuning.member import Member
from utuning.streams import run_streams
from utuning.tuners.bypass import Bypass
from utuning.tuners.dtl import DTL
from utuning.tuners.ladder import Ladder
from utuning.tuners.pruning import fisher_importance, prune_into, weight_importance
from utuning.tuners.roles import Side
from utuning.tuners.unipt import UniPT

NUM_BLOCKS, WIDTH, NUM_TOKENS = 4, 32, 17
ALL = range(NUM_BLOCKS)


def side(method: str, depths: Any = None, **settings: object) -> TunerConfig:
    return TunerConfig(method=method, depths=depths, settings=settings)


CASES: dict[str, TunerConfig] = {
    "unipt": side("unipt"),
    "unipt on three states, plus the features": side("unipt", (0, 2, 3), downsample=4, readout="skip"),
    "ladder": side("ladder", reduction=4),
    "ladder, layers dropped, no gate, pruned": side("ladder", (1, 3), reduction=2, gate="none", init="pruned"),
    "bypass": side("bypass", bottleneck_dim=4),
    "bypass of the paper": side("bypass", "last:2", form="paper", scale="channel", init="zero_last"),
    "dtl": side("dtl", bottleneck_dim=4),
    "dtl, own convolutions": side("dtl", (0, 2), num_late=1, conv="each", beta=3.0),
    "dtl, late before tapped": side("dtl", (2,), num_late=4, conv="none"),
}
READ_ONLY = [name for name in CASES if not name.startswith("dtl")]


def member(backbone: Backbone, *tuners: TunerConfig, seed: int = 0) -> Member:
    return Member(backbone, num_classes=5, config=train(seed=seed), tuners=tuners, steps_per_epoch=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(num_tokens: int = NUM_TOKENS) -> list[Tensor]:
    """The embedded image and what leaves each block, as noise."""
    return list(torch.randn(NUM_BLOCKS + 1, 2, num_tokens, WIDTH, generator=generator(3)))


def stir(net: nn.Module) -> None:
    """Give every parameter a value that shows."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(5)))


def drive(net: Side, x: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """Features, and what is added after each block, for given states."""
    carried, added = net.start(x[0]), []
    for depth in ALL:
        carried, more = net.step(depth, x[depth], x[depth + 1], carried)
        added.append(more)
    return net.features(x[-1], carried), added


def layer_norm(z: Tensor, norm: Any) -> Tensor:
    """LayerNorm of one vector."""
    centred = z - z.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def affine(z: Tensor, layer: Any) -> Tensor:
    """A linear layer on one vector, row by row."""
    rows = torch.stack([(row * z).sum() for row in layer.weight])
    return rows + (0.0 if layer.bias is None else layer.bias)


def gelu(z: Tensor) -> Tensor:
    return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def test_unipt_by_hand(backbone: Backbone) -> None:
    net, x = UniPT(backbone.trunk, (0, 2), downsample=8, generator=generator()), states(5)
    stir(net)
    image = 1
    wide = {"stem": x[0][image], "0": x[1][image], "2": x[3][image]}
    f = {
        name: torch.stack([layer_norm(affine(token, net.down[name][0]), net.down[name][1]) for token in tokens])  # type: ignore[index]
        for name, tokens in wide.items()
    }
    guide = f["2"]
    confidence, mixed = [], []
    for name in ("stem", "0"):
        rows = []
        for n, query in enumerate(guide):
            similar = [max((query @ key).item(), 0.0) for key in f[name]]
            weighed = [s / (sum(similar) + 1e-6) * token for s, token in zip(similar, f[name], strict=True)]
            rows.append(torch.stack(weighed).sum(0) + f[name][n])
        mixed.append(torch.stack(rows))
        confidence.append((net.gate.weight[0] * guide.mean(0) * f[name].mean(0)).sum().item())
    total = sum(math.exp(c) for c in confidence)
    pooled = sum(math.exp(c) / total * m[0] for c, m in zip(confidence, mixed, strict=True))
    out = affine((guide[0] + layer_norm(affine(pooled, net.mix[0]), net.mix[1])).clamp(min=0), net.up)  # type: ignore[index, arg-type]
    torch.testing.assert_close(drive(net, x)[0][image], out, rtol=1e-4, atol=1e-4)
    with_skip = UniPT(backbone.trunk, (0, 2), downsample=8, readout="skip", generator=generator())
    with_skip.load_state_dict(net.state_dict())
    frozen = layer_norm(x[-1][image, 0], backbone.trunk.model.norm)
    torch.testing.assert_close(drive(with_skip, x)[0][image], out + frozen, rtol=1e-4, atol=1e-4)


def block_by_hand(x: Tensor, block: Any, num_heads: int) -> Tensor:
    """A pre-norm transformer block on the tokens of one image, head by head."""
    width = x.shape[1]
    qkv = torch.stack([affine(layer_norm(token, block.norm1), block.attn.qkv) for token in x])
    heads = []
    for h in range(num_heads):
        d = width // num_heads
        q, k, v = (qkv[:, third * width + h * d : third * width + (h + 1) * d] for third in range(3))
        heads.append(torch.stack([sum(w * row for w, row in zip(_weights(one, k), v, strict=True)) for one in q]))
    x = x + torch.stack([affine(token, block.attn.proj) for token in torch.cat(heads, dim=1)])
    hidden = [gelu(affine(layer_norm(token, block.norm2), block.mlp.fc1)) for token in x]
    return x + torch.stack([affine(token, block.mlp.fc2) for token in hidden])


def _weights(query: Tensor, keys: Tensor) -> list[float]:
    scores = [math.exp((query @ key).item() / math.sqrt(len(query))) for key in keys]
    return [score / sum(scores) for score in scores]


@pytest.mark.parametrize("gate", ["learnable", "none"])
def test_ladder_by_hand(backbone: Backbone, gate: Any) -> None:
    net, x = Ladder(backbone.trunk, (0, 1, 3), reduction=4, gate=gate, generator=generator()), states(3)
    stir(net)
    image = 1
    h = torch.stack([affine(token, net.start_down) for token in x[0][image]])
    for depth in (0, 1, 3):
        rung = torch.stack([affine(token, net.down[str(depth)]) for token in x[depth + 1][image]])
        if gate == "learnable":
            mu = 1 / (1 + math.exp(-net.gate[str(depth)].item() / 0.1))
            h, rung = mu * h, (1 - mu) * rung
        h = block_by_hand(h + rung, net.blocks[str(depth)], num_heads=4)
    by_hand = affine(layer_norm(h[0], net.norm), net.up)
    torch.testing.assert_close(drive(net, x)[0][image], by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize(("lateral", "vertical"), [(True, True), (True, False), (False, True), (False, False)])
def test_bypass_by_hand(backbone: Backbone, form: Any, lateral: bool, vertical: bool) -> None:
    net = Bypass(
        backbone.trunk, (0, 2, 3), bottleneck_dim=3, form=form, lateral=lateral, vertical=vertical, scale="scalar",
        generator=generator(),
    )  # fmt: skip
    stir(net)
    x = states(3)

    def tuned(tuners: Any, depth: int, z: Tensor) -> Tensor:
        if str(depth) not in tuners:
            return z
        tuner = tuners[str(depth)]
        return z + tuner.scale.weight * affine(gelu(affine(z, tuner.down)), tuner.up)

    b = x[0][1, 0]
    for depth in (0, 2, 3):
        one, two = tuned(net.lateral, depth, x[depth + 1][1, 0]), tuned(net.vertical, depth, b)
        lam = 1 / (1 + math.exp(-net.mix[str(depth)].item())) if form == "paper" else None
        b = one + two if lam is None else lam * one + (1 - lam) * two
    by_hand = layer_norm(b, backbone.trunk.model.norm)
    torch.testing.assert_close(drive(net, x)[0][1], by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conv", ["shared", "each", "none"])
def test_dtl_by_hand(backbone: Backbone, conv: Any) -> None:
    net: Any = DTL(backbone.trunk, (0, 2, 3), bottleneck_dim=3, num_late=2, conv=conv, beta=2.0, generator=generator())
    stir(net)
    x = states()
    features, added = drive(net, x)
    h = torch.zeros(NUM_TOKENS, WIDTH)
    for depth in ALL:
        if depth != 1:
            for n, token in enumerate(x[depth][1]):
                h[n] += affine(affine(token, net.down[str(depth)]), net.up[str(depth)]).detach()
        swish = h / (1 + torch.exp(-2.0 * h))
        by_hand = swish.clone()
        if conv != "none":
            kernel = net.conv["shared" if conv == "shared" or depth < 2 else str(depth)].weight if depth > 1 else None
            for row in range(4):
                for column in range(4):
                    by_hand[1 + 4 * row + column] = sum(
                        (
                            kernel[:, 0, i, j] * swish[1 + 4 * (row + i - 1) + column + j - 1]
                            for i in range(3)
                            for j in range(3)
                            if kernel is not None and 0 <= row + i - 1 < 4 and 0 <= column + j - 1 < 4
                        ),
                        torch.zeros(WIDTH),
                    )
        more = added[depth]
        assert (more is None) == (depth < 2)
        if more is not None:
            torch.testing.assert_close(more[1], by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features[1], layer_norm(x[-1][1, 0], backbone.trunk.model.norm), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conv", ["shared", "each", "none"])
def test_dtl_adds_nothing_at_init(backbone: Backbone, conv: Any) -> None:
    added = drive(DTL(backbone.trunk, ALL, num_late=2, conv=conv, generator=generator()), states())[1]
    assert [more is not None and not more.any() for more in added] == [False, False, True, True]


def test_dtl_is_the_identity_at_init_and_the_others_are_not(backbone: Backbone) -> None:
    images = torch.rand(2, 3, 32, 32, generator=generator())
    frozen = backbone.trunk.model(images)
    for name, tuner in CASES.items():
        given = run_streams(backbone.trunk, [member(backbone, tuner)], images)[0]
        assert torch.allclose(given, frozen, rtol=0, atol=1e-6) == name.startswith("dtl"), name


def watch(backbone: Backbone, who: Member) -> list[list[bool]]:
    """Whether the outputs of each block, and of its attention and MLP, carry a gradient."""
    seen: list[list[bool]] = [[] for _ in ALL]

    def note(depth: int) -> Callable[..., None]:
        return lambda module, args, output: seen[depth].append(output.requires_grad)

    hooks = [
        layer.register_forward_hook(note(depth))
        for depth, block in enumerate(backbone.trunk.model.blocks)  # type: ignore[arg-type]
        for layer in (block, block.norm1, block.attn, block.norm2, block.mlp)
    ]
    run_streams(backbone.trunk, [who], torch.rand(2, 3, 32, 32))[0].sum().backward()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", READ_ONLY)
def test_no_activation_of_the_backbone_has_a_gradient(backbone: Backbone, name: str) -> None:
    who = member(backbone, CASES[name])
    seen = watch(backbone, who)
    assert who.first_depth is None
    assert all(seen)
    assert not any(flag for flags in seen for flag in flags)


@pytest.mark.parametrize(("name", "first"), [("dtl", 2), ("dtl, own convolutions", 3), ("dtl, late before tapped", 2)])
def test_dtl_has_gradients_only_behind_its_first_late_block(backbone: Backbone, name: str, first: int) -> None:
    who = member(backbone, CASES[name])
    seen = watch(backbone, who)
    assert who.first_depth == first
    assert all(seen)
    assert [any(flags) for flags in seen] == [depth > first for depth in ALL]


def losses(backbone: Backbone, members: list[Member]) -> Tensor:
    cohort = Cohort(backbone, members)
    return torch.stack([cohort.step(batch(seed=step, padding=step)) for step in range(3)], dim=1)


def test_members_together_lose_what_each_loses_alone() -> None:
    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.trunk.model.state_dict().items()}
    trials = [*((tuner,) for tuner in CASES.values()), (), (adapter("attn", "mlp"),)]
    trials.append((CASES["bypass"], adapter("mlp", depths="last:2", init="xavier")))
    together = losses(backbone, [member(backbone, *tuners, seed=k) for k, tuners in enumerate(trials)])
    alone = torch.cat([losses(backbone, [member(backbone, *tuners, seed=k)]) for k, tuners in enumerate(trials)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in backbone.trunk.model.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.trunk.model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_learns_and_comes_back(backbone: Backbone, name: str) -> None:
    who = member(backbone, CASES[name])
    before = {key: value.clone() for key, value in who.tensors().items()}
    assert torch.isfinite(losses(backbone, [who])).all()
    after = who.tensors()
    assert [key for key in after if torch.equal(after[key], before[key])] == []
    assert sum(value.numel() for value in after.values()) == sum(p.numel() for p in who.parameters())
    other = member(backbone, CASES[name], seed=9)
    other.load_tensors(after)
    images = torch.rand(2, 3, 32, 32)
    given, back = (run_streams(backbone.trunk, [each], images)[0] for each in (who, other))
    assert torch.equal(given, back)


@pytest.mark.parametrize("name", CASES)
def test_initial_values_come_from_the_seed_alone(backbone: Backbone, name: str) -> None:
    state = torch.get_rng_state()
    one = member(backbone, CASES[name]).tensors()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1234)
    same, other = member(backbone, CASES[name]).tensors(), member(backbone, CASES[name], seed=1).tensors()
    torch.set_rng_state(state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one if key.startswith("tuners"))


def test_a_ladder_begins_as_timm_begins_a_vit(backbone: Backbone) -> None:
    block: Any = Ladder(backbone.trunk, ALL, reduction=1, generator=generator()).blocks["0"]
    for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()
    assert bool((block.norm1.weight == 1).all())
    assert not bool(block.norm1.bias.any())


def largest(scores: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda place: -scores[place])[:count])


def assert_cut(narrow: Any, frozen: Any, rows: list[int], columns: list[int] | None = None) -> None:
    weight = frozen.weight[rows]
    assert torch.equal(narrow.weight, weight if columns is None else weight[:, columns])
    assert torch.equal(narrow.bias, frozen.bias[rows])


def test_a_bypass_may_start_with_its_last_tuners_at_zero(backbone: Backbone) -> None:
    net: Any = Bypass(backbone.trunk, (0, 2), init="zero_last", generator=generator())
    for tuners in (net.lateral, net.vertical):
        bound = math.sqrt(6 / (WIDTH + 32))
        assert 0.9 * bound < float(tuners["0"].up.weight.detach().abs().max()) <= bound
        assert not tuners["2"].up.weight.any()
        assert tuners["2"].down.weight.any()


def test_pruning_keeps_the_rows_of_most_importance() -> None:
    backbone = tiny_backbone()
    with torch.no_grad():
        for name in weight_importance(backbone.trunk):
            weight = backbone.trunk.model.get_parameter(name)
            weight *= torch.randn(len(weight), generator=generator(7)).exp().view(-1, *[1] * (weight.ndim - 1))
    ladder: Any = Ladder(backbone.trunk, (1, 3), reduction=4, init="pruned", generator=generator())
    model: Any = backbone.trunk.model
    rows = largest([float(row.abs().sum()) for row in model.patch_embed.proj.weight], 8)
    for depth in (1, 3):
        narrow, frozen = ladder.blocks[str(depth)], model.blocks[depth]
        assert_cut(narrow.norm1, frozen.norm1, rows)
        q, k, v = (third[:, rows].abs().sum(dim=1).tolist() for third in frozen.attn.qkv.weight.split(WIDTH))
        values = largest([a * b * c for a, b, c in zip(q, k, v, strict=True)], 8)
        assert_cut(narrow.attn.qkv, frozen.attn.qkv, [t * WIDTH + row for t in range(3) for row in values], rows)
        columns = values
        for name, count in (("attn.proj", 8), ("mlp.fc1", 32), ("mlp.fc2", 8)):
            layer = frozen.get_submodule(name)
            rows = largest([float(row[columns].abs().sum()) for row in layer.weight], count)
            assert_cut(narrow.get_submodule(name), layer, rows, columns)
            if name == "attn.proj":
                assert_cut(narrow.norm2, frozen.norm2, rows)
            columns = rows
    assert_cut(ladder.norm, model.norm, rows)


def test_fisher_importance_is_the_mean_squared_gradient_of_one_image_at_a_time(backbone: Backbone) -> None:
    images = batch(size=5, padding=2)
    probe = member(backbone)
    given = fisher_importance(backbone, [images, images], probe.logits, num_samples=4)
    model = copy.deepcopy(backbone.trunk.model).requires_grad_(True)
    facts = backbone.preprocessing
    total = {name: torch.zeros_like(value) for name, value in given.items()}
    for place in (0, 1, 2, 0):
        model.zero_grad()
        pixels = normalise(images.images[place : place + 1], facts.mean, facts.std)
        cross_entropy(probe.logits(model(pixels)), images.labels[place : place + 1]).backward()
        for name, value in total.items():
            value += model.get_parameter(name).grad ** 2 / 4  # type: ignore[operator]
    assert len(given) == 1 + 4 * NUM_BLOCKS
    for name, value in total.items():
        assert float(value.max()) > 0
        torch.testing.assert_close(given[name], value, rtol=1e-4, atol=1e-12)
    assert all(parameter.grad is None for parameter in backbone.trunk.model.parameters())
    with pytest.raises(ConfigError, match="needs training images"):
        fisher_importance(backbone, [], probe.logits)


def test_a_ladder_takes_other_importances_from_python(backbone: Backbone) -> None:
    who = member(backbone, CASES["ladder"])
    ladder: Any = who.side
    before = {key: value.clone() for key, value in who.tensors().items()}
    importance = fisher_importance(backbone, [batch(size=3)], member(backbone).logits)
    ladder.copy_from(backbone.trunk, importance)
    after = who.tensors()
    changed = {key.split(".")[2] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"blocks", "norm"}
    blocks = {int(name): block for name, block in ladder.blocks.items()}
    by_fisher = prune_into(blocks, ladder.norm, backbone.trunk, importance)
    by_weight = prune_into(blocks, ladder.norm, backbone.trunk, weight_importance(backbone.trunk))
    assert any(not torch.equal(by_fisher[key], by_weight[key]) for key in by_weight)


def saved_bytes(backbone: Backbone, who: Member) -> int:
    """Bytes of the distinct activations that a forward pass keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in (*backbone.trunk.model.parameters(), *who.parameters())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = run_streams(backbone.trunk, [who], torch.rand(8, 3, 32, 32))[0]
    assert features.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("name", CASES)
def test_a_side_network_keeps_less_than_adapters_at_every_block(backbone: Backbone, name: str) -> None:
    adapters = saved_bytes(backbone, member(backbone, adapter("attn", "mlp")))
    assert saved_bytes(backbone, member(backbone, CASES[name])) < adapters


@pytest.mark.parametrize(
    ("tuner", "error", "says"),
    [
        (side("unipt", (2,)), PlacementError, "two depths or more"),
        (side("unipt", downsample=33), ConfigError, "leaves nothing"),
        (side("ladder", reduction=3), ConfigError, "allowed: 1, 2, 4, 8"),
        (side("dtl", num_late=5), PlacementError, "4 blocks"),
        (TunerConfig(method="bypass", ops=("attn",)), PlacementError, "leave them out"),
    ],
)
def test_what_cannot_stand_is_refused(
    backbone: Backbone, tuner: TunerConfig, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        member(backbone, tuner)


@pytest.mark.parametrize("network", [UniPT, Ladder, Bypass, DTL])
def test_states_of_several_shapes_are_refused(backbone: Backbone, network: type[Any]) -> None:
    pyramid = Trunk(backbone.trunk.model, replace(backbone.trunk.architecture, name="pyramid", isotropic=False))
    with pytest.raises(PlacementError, match="of the family pyramid they differ in width"):
        network(pyramid, ALL, generator=generator())


def test_a_ladder_refuses_blocks_that_it_cannot_copy(backbone: Backbone) -> None:
    model: Any = copy.deepcopy(backbone.trunk.model)
    model.blocks[2].mlp = nn.Linear(WIDTH, WIDTH)
    with pytest.raises(PlacementError, match="block 2 of this vit is another"):
        Ladder(Trunk(model, backbone.trunk.architecture), ALL, generator=generator())
