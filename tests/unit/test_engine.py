"""What members and the engine promise, beside the law."""

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
import timm
import torch

from tests.tools import adapter, batch, rows_of, train
from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.errors import ConfigError, PlacementError
from utuning.member import Member
from utuning.schedule import lr_fraction
from utuning.streams import run_streams

MIXES = {
    "attn": (adapter("attn"),),
    "dual": (adapter("attn", "mlp", depths="last:2"),),
    "tri": (adapter("attn", "mlp", "block", scale="gate"),),
    "block": (adapter("block", depths="first", scale="none"),),
    "linear": (),
    "full": (TunerConfig(method="full"),),
}


def member(backbone: Backbone, name: str, **config: object) -> Member:
    return Member(backbone, num_classes=5, config=train(**config), tuners=MIXES[name], steps_per_epoch=2)


def features(backbone: Backbone, who: Member) -> torch.Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return run_streams(backbone.trunk, [who], images)[0]


@pytest.mark.parametrize("name", MIXES)
def test_zero_up_is_the_backbone_to_the_bit(backbone: Backbone, name: str) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        features(backbone, member(backbone, name)), backbone.trunk.model(images), rtol=0, atol=1e-6
    )


def test_xavier_is_not_the_identity(backbone: Backbone) -> None:
    who = Member(backbone, num_classes=5, config=train(), tuners=(adapter("attn", init="xavier"),))
    assert not torch.allclose(features(backbone, who), features(backbone, member(backbone, "linear")), atol=1e-4)


@pytest.mark.parametrize("name", MIXES)
def test_every_trainable_tensor_gets_a_gradient_within_two_steps(backbone: Backbone, name: str) -> None:
    who = member(backbone, name)
    before = {key: value.clone() for key, value in who.tensors().items()}
    cohort = Cohort(backbone, [who])
    for step in range(3):
        cohort.step(batch(seed=step))
    still = [key for key, value in who.tensors().items() if torch.equal(value, before[key])]
    assert still == []


def test_frozen_ops_below_the_first_tuned_depth_have_no_autograd(backbone: Backbone) -> None:
    seen: list[bool] = []
    hooks = [
        block.attn.qkv.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
        for block in backbone.trunk.model.blocks
    ]
    features(backbone, Member(backbone, num_classes=5, config=train(), tuners=(adapter("mlp", depths=(2,)),)))
    for hook in hooks:
        hook.remove()
    assert seen == [False, False, False, True]


def test_what_a_cohort_spares_is_counted_in_frozen_blocks(backbone: Backbone) -> None:
    cohort = Cohort(backbone, [member(backbone, name) for name in ("linear", "dual", "tri")])
    cohort.step(batch(size=6))
    assert (cohort.sharing.run, cohort.sharing.alone) == (4 * 6, (4 + 2 + 0) * 6)
    cohort.evaluate([batch(size=6)])
    assert (cohort.sharing.run, cohort.sharing.alone) == (2 * 4 * 6, 2 * (4 + 2 + 0) * 6)


def test_waiting_for_batches_is_timed_and_steps_are_not(backbone: Backbone) -> None:
    def slow() -> Iterator[Batch]:
        for seed in range(2):
            time.sleep(0.2)
            yield batch(seed=seed)

    cohort = Cohort(backbone, [member(backbone, "linear")])
    started = time.perf_counter()
    cohort.train_epoch(slow(), on_step=lambda step: time.sleep(0.2))
    assert 0.4 <= cohort.input_wait_s <= time.perf_counter() - started - 0.4


def test_two_workers_equal_one(backbone: Backbone) -> None:
    """Gradient sums of two half batches, reduced by hand, give the step of the whole batch."""
    whole, half_a, half_b = member(backbone, "dual"), member(backbone, "dual"), member(backbone, "dual")
    everything = batch(size=6, padding=1)
    halves = [rows_of(everything, rows) for rows in (slice(0, 3), slice(3, 6))]
    sums: list[torch.Tensor] = []
    Cohort(backbone, [half_a], num_workers=2, reduce=lambda t: sums.append(t.clone())).step(halves[0])
    other = Cohort(backbone, [half_b], worker=1, num_workers=2, reduce=lambda t: t.add_(sums[0]))
    loss_two = other.step(halves[1])
    loss_one = Cohort(backbone, [whole]).step(everything)
    torch.testing.assert_close(loss_two, loss_one, rtol=0, atol=1e-6)
    for key, value in whole.tensors().items():
        torch.testing.assert_close(half_b.tensors()[key], value, rtol=0, atol=1e-4)  # AdamW divides by small numbers


def test_evaluation_masks_padding(backbone: Backbone) -> None:
    cohort = Cohort(backbone, [member(backbone, "attn"), member(backbone, "linear")])
    padded = batch(size=6, padding=2)
    real = rows_of(padded, slice(0, 4))
    with_padding, without = cohort.evaluate([padded]), cohort.evaluate([real])
    assert [score.count for score in with_padding] == [4, 4]
    assert [s.accuracy for s in with_padding] == [s.accuracy for s in without]
    assert with_padding[0].loss == pytest.approx(without[0].loss, abs=1e-6)


@pytest.mark.parametrize("name", MIXES)
def test_resuming_goes_on_as_if_never_stopped(backbone: Backbone, name: str) -> None:
    undisturbed, first = member(backbone, name), member(backbone, name)
    second = member(backbone, name, seed=9)
    losses = [float(Cohort(backbone, [undisturbed]).step(batch(seed=step))) for step in range(4)]
    resumed = [float(Cohort(backbone, [first]).step(batch(seed=step))) for step in range(2)]
    second = Member(backbone, num_classes=5, config=first.config, tuners=MIXES[name], steps_per_epoch=2)
    second.load_state_dict(first.state_dict())
    resumed += [float(Cohort(backbone, [second]).step(batch(seed=step))) for step in (2, 3)]
    assert resumed == pytest.approx(losses, abs=1e-6)


def test_tuner_names_are_stable(backbone: Backbone) -> None:
    names = Member(backbone, num_classes=5, config=train(), tuners=(adapter("attn", depths=(3,)),)).tensors()
    assert sorted(names) == [
        "head.bias", "head.weight", "tuners.p_adapter.attn.3.down.bias", "tuners.p_adapter.attn.3.down.weight",
        "tuners.p_adapter.attn.3.scale.weight", "tuners.p_adapter.attn.3.up.bias",
        "tuners.p_adapter.attn.3.up.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tuners", "error", "says"),
    [
        (
            (TunerConfig(method="unipt"), TunerConfig(method="vpt_deep")),
            PlacementError,
            "unipt puts the states of all blocks together, and vpt_deep adds tokens",
        ),
        ((TunerConfig(method="mlp_head"), TunerConfig(method="proxy_head")), PlacementError, "two heads"),
        ((TunerConfig(method="lora", ops=("block",)),), PlacementError, "lora cannot stand at op kind 'block'"),
        ((TunerConfig(method="full", ops=("attn",)),), PlacementError, "full stands at no op kind"),
        ((adapter("conv"),), PlacementError, "op kind 'conv' matches no site"),
        ((adapter("attn", depths=(4,)),), PlacementError, "blocks 0 to 3"),
        ((adapter("attn", depths="last:9"),), PlacementError, "last:9"),
        ((adapter("attn", depths="lats:2"),), PlacementError, "'last:K'"),
        ((adapter(),), PlacementError, "no op kind"),
        ((adapter("attn"), adapter("attn", "mlp")), PlacementError, "both stand beside attn at depth 0"),
        ((adapter("attn", bottleneck=3),), ConfigError, "did you mean 'bottleneck_dim'"),
        ((TunerConfig(method="p_adaptor", ops=("attn",)),), ConfigError, "did you mean 'p_adapter'"),
    ],
)
def test_bad_tuners_are_named(
    backbone: Backbone, tuners: tuple[TunerConfig, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says.replace("(", r"\(")):
        Member(backbone, num_classes=5, config=train(), tuners=tuners)


def test_op_sites_compose_to_the_model_for_pretrained_layouts() -> None:
    """Class token, registers, LayerScale and average pooling: the trunk's walk is timm's own forward."""
    for name in (
        "vit_tiny_patch16_224",
        "deit3_small_patch16_224",
        "vit_base_patch16_clip_224",
        "vit_small_patch14_reg4_dinov2",
    ):
        backbone = Backbone.load(name, weights="none", img_size=28 if "14" in name else 32, options={"depth": 2})
        images = torch.rand(1, 3, *[backbone.preprocessing.img_size] * 2)
        who = Member(backbone, num_classes=2, config=train(), tuners=(adapter("attn", "mlp", "block"),))
        torch.testing.assert_close(
            run_streams(backbone.trunk, [who], images)[0],
            backbone.trunk.model(images),
            rtol=0,
            atol=1e-5,
        )


def test_an_unknown_architecture_is_named() -> None:
    assert timm.is_model("test_byobnet")
    with pytest.raises(Exception, match="no op sites are known for a ByobNet"):
        Backbone.load("test_byobnet", weights="none")


def test_the_schedule_warms_up_and_falls() -> None:
    rates = [lr_fraction(step, 20, 5) for step in range(20)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == rates[5] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.02
