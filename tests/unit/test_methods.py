"""Every method on a small ViT: one table of configurations, one list of laws."""

from functools import cache

import pytest
import torch

from tests.tools import adapter, batch, rows_of, tiny_backbone, train
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.member import Member
from utuning.streams import run_streams
from utuning.tuners import TUNERS

Tuners = tuple[TunerConfig, ...]
NUM_STEPS = 3


def one(method: str, *ops: str, depths: str | None = None, **settings: object) -> Tuners:
    return (TunerConfig(method=method, ops=ops, depths=depths, settings=settings),)


ALL = ("attn", "mlp", "block")
PLAIN: dict[str, Tuners] = {
    name: one(name, *(ALL if row.ops and not row.default_ops else ())) for name, row in TUNERS.items()
}
MIXED: dict[str, Tuners] = {
    "linear": (),
    "dual": (adapter("attn", "mlp", scale="scalar"),),
    "tri, prefix on block": (adapter("attn", "mlp"), *one("p_prefix", "block", num_tokens=3)),
    "tri, prompt on attn": (*one("p_prompt", "attn", init="zero_scale"), adapter("mlp", "block", init="xavier")),
    "last block only": one("lora", depths="last", lora_rank=2),
    "prompts and lora": (*one("vpt_deep", num_tokens=2), *one("lora", layers=("q", "k", "proj"))),
    "prompts and adapters": (*one("vpt_shallow", num_tokens=4), adapter("attn")),
    "biases and an MLP head": (*one("bitfit"), *one("mlp_head")),
    "biases and prefixes": (*one("bitfit"), *one("prefix_tuning", num_tokens=2)),
    "full with prompts beside": (*one("full"), *one("p_prompt", "mlp")),
    "two last blocks": one("partial", num_blocks=2),
    "ladder without block 1": (TunerConfig(method="ladder", depths=(0, 2, 3)),),
    "bypass as in the paper": one("bypass", form="paper"),
    "houlsby and ssf": (*one("adapter_houlsby"), *one("ssf", "mlp", depths="last:2")),
}
TABLE = {**PLAIN, **MIXED}


@cache
def backbone():  # type: ignore[no-untyped-def]
    return tiny_backbone()


def member(name: str, seed: int = 0) -> Member:
    return Member(backbone(), num_classes=5, config=train(seed=seed), tuners=TABLE[name], steps_per_epoch=2)


def steps(members: list[Member]) -> torch.Tensor:
    cohort = Cohort(backbone(), members)
    return torch.stack([cohort.step(batch(seed=step)) for step in range(NUM_STEPS)], dim=1)


def features(who: Member) -> torch.Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return run_streams(backbone().trunk, [who], images)[0].detach()


def model_features(of: Backbone) -> torch.Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result: torch.Tensor = of.trunk.model(images)
    return result


@cache
def trained(name: str) -> tuple[Member, torch.Tensor, dict[str, torch.Tensor]]:
    """A member after three solo steps, its losses, and its tensors before them."""
    who = member(name)
    before = {key: value.clone() for key, value in who.tensors().items()}
    return who, steps([who])[0], before


def test_the_table_has_every_method() -> None:
    assert set(TUNERS) <= set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_scores_have_a_row_for_each_image(name: str) -> None:
    who = member(name)
    assert features(who).shape == model_features(backbone()).shape
    assert [tuple(p.shape) for p in Cohort(backbone(), [who]).predict(batch().images)] == [(6, 5)]


@pytest.mark.parametrize("name", PLAIN)
def test_identity_at_init_is_as_declared(name: str) -> None:
    same = torch.allclose(features(member(name)), model_features(backbone()), rtol=0, atol=1e-6)
    assert same == TUNERS[name].identity_at_init


@pytest.mark.parametrize("name", TABLE)
def test_every_trainable_tensor_learns_and_nothing_else(name: str) -> None:
    frozen = {key: value.clone() for key, value in backbone().trunk.model.state_dict().items()}
    who, _, before = trained(name)
    assert [key for key, value in who.tensors().items() if torch.equal(value, before[key])] == []
    assert sum(value.numel() for value in before.values()) == sum(who.num_parameters().values())
    assert all(torch.equal(value, frozen[key]) for key, value in backbone().trunk.model.state_dict().items())
    assert all(p.grad is None for p in backbone().trunk.model.parameters())


@pytest.mark.parametrize("name", TABLE)
def test_the_pooled_tokens_alone_give_the_features_of_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    who = trained(name)[0]
    pooled = features(who)
    monkeypatch.setattr(who, "reads_all_tokens", True)
    torch.testing.assert_close(pooled, features(who), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TABLE)
def test_without_its_tuners_the_backbone_is_the_backbone_to_the_bit(name: str) -> None:
    trained(name)
    untouched = model_features(tiny_backbone())
    assert torch.equal(model_features(backbone()), untouched)
    torch.testing.assert_close(features(member("linear")), untouched, rtol=0, atol=1e-6)
    assert not any(module._forward_hooks for module in backbone().trunk.model.modules())


@pytest.mark.parametrize("name", TABLE)
def test_saved_and_loaded_it_scores_the_same_to_the_bit(name: str) -> None:
    who, _, _ = trained(name)
    other = member(name, seed=9)
    other.load_tensors({key: value.clone() for key, value in who.tensors().items()})
    images = batch(seed=7).images
    first, second = (Cohort(backbone(), [m]).predict(images)[0] for m in (who, other))
    assert torch.equal(first, second)


def test_together_all_methods_lose_what_each_loses_alone() -> None:
    together = steps([member(name) for name in TABLE])
    for name, losses in zip(TABLE, together, strict=True):
        torch.testing.assert_close(
            losses, trained(name)[1], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", TABLE)
def test_two_workers_take_the_step_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of two half batches, one of them padded, reduced by hand, are the whole batch's: losses and gradients."""
    monkeypatch.setattr(Member, "update", lambda self: None)  # the gradients stay
    everything, sums = batch(size=6, padding=1), list[torch.Tensor]()
    halves = [rows_of(everything, rows) for rows in (slice(0, 3), slice(3, 6))]
    one, first, second = member(name), member(name), member(name)
    Cohort(backbone(), [first], num_workers=2, reduce=lambda t: sums.append(t.clone())).step(halves[0])
    other = Cohort(backbone(), [second], worker=1, num_workers=2, reduce=lambda t: t.add_(sums[0]))
    two_losses = other.step(halves[1])
    one_loss = Cohort(backbone(), [one]).step(everything)
    torch.testing.assert_close(two_losses, one_loss, rtol=0, atol=1e-5)
    for mine, theirs in zip(second.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
