"""Costs are counted: a plain ViT as its formula says, and members together as the sum of what each of them adds."""

from functools import cache
from typing import Any

import pytest
import torch

from tests.tools import TINY, adapter, batch, tiny_backbone, trial_of
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.costs import (
    Cost,
    Line,
    eval_flops,
    frozen_flops,
    random_batch,
    saved_bytes,
    shared_flops,
    step_flops,
    throwaway,
    trial_cost,
)
from utuning.errors import ConfigError
from utuning.prefix import state_shapes

TRIALS = {
    "linear": trial_of(),
    "last": trial_of(adapter("attn", "mlp", depths="last:1")),
    "two last": trial_of(adapter("mlp", depths="last:2")),
    "all": trial_of(adapter("attn", "mlp", "block")),
    "lora": trial_of(TunerConfig(method="lora", depths="last:2")),
    "prompts": trial_of(TunerConfig(method="vpt_deep")),
    "full": trial_of(TunerConfig(method="full")),
    "unipt": trial_of(TunerConfig(method="unipt")),
    "dtl": trial_of(TunerConfig(method="dtl")),
}
MIXTURES = (("linear", "last"), ("last", "two last", "all"), ("linear", "unipt", "full"), tuple(TRIALS))
NUM_IMAGES = 3


@cache
def backbone():  # type: ignore[no-untyped-def]
    return tiny_backbone()


@cache
def frozen() -> list[int]:
    return frozen_flops(backbone())


@cache
def cost(name: str) -> Cost:
    return trial_cost(backbone(), TRIALS[name])


def members(*names: str):  # type: ignore[no-untyped-def]
    return throwaway(backbone(), [TRIALS[name] for name in names])


def vit_flops(width: int, depth: int, num_tokens: int, patch: int, mlp_ratio: int = 4) -> int:
    """A plain ViT's forward of one image: patches, then in every block four projections, attention, and the MLP."""
    stem = 2 * (num_tokens - 1) * 3 * patch**2 * width
    projections = 4 * 2 * num_tokens * width**2
    attention = 2 * 2 * num_tokens**2 * width
    mlp = 2 * 2 * num_tokens * mlp_ratio * width**2
    return stem + depth * (projections + attention + mlp)


def test_the_frozen_network_costs_what_its_formula_says() -> None:
    formula = vit_flops(TINY["embed_dim"], TINY["depth"], num_tokens=17, patch=TINY["patch_size"])
    assert frozen()[-1] == pytest.approx(formula, rel=0.03)
    assert frozen() == sorted(frozen())


def test_a_linear_probes_step_is_the_frozen_forward() -> None:
    who = members("linear")
    who[0].reads_all_tokens = True  # else the last block computes the pooled token alone
    formula = vit_flops(TINY["embed_dim"], TINY["depth"], num_tokens=17, patch=TINY["patch_size"])
    assert step_flops(backbone(), who, num_images=2) == pytest.approx(2 * formula, rel=0.03)
    assert step_flops(backbone(), members("linear")) < formula


def test_a_warm_linear_probe_computes_nothing_of_the_backbone() -> None:
    head = 2 * TINY["embed_dim"] * TRIALS["linear"].num_classes
    assert step_flops(backbone(), members("linear"), cached=True) == 2 * head  # forwards, and for its weights
    assert eval_flops(backbone(), members("linear"), cached=True) == head
    assert cost("linear").shared > 100 * head


@pytest.mark.parametrize("names", MIXTURES, ids=" ".join)
@pytest.mark.parametrize("cached", [False, True])
def test_members_together_cost_at_most_the_sum_of_each_alone(names: tuple[str, ...], cached: bool) -> None:
    for flops in (step_flops, eval_flops):
        together = flops(backbone(), members(*names), cached=cached)
        alone = [flops(backbone(), members(name), cached=cached) for name in names]
        # Rows that run joined go backward joined too: also those whose own states need no gradient.
        assert max(alone) <= together <= sum(alone) * (1.05 if cached else 1.0)


@pytest.mark.parametrize("names", MIXTURES, ids=" ".join)
@pytest.mark.parametrize("cached", [False, True])
def test_costs_of_trials_add_up_to_what_is_counted_together(names: tuple[str, ...], cached: bool) -> None:
    """Up to a block: the last one computes the pooled tokens alone, unless a member that is there reads all."""
    costs = [cost(name) for name in names]
    known = frozenset().union(*(each.reads for each in costs)) - {-1} if cached else frozenset()
    shared = NUM_IMAGES * shared_flops(costs, frozen(), known)
    counted = step_flops(backbone(), members(*names), num_images=NUM_IMAGES, cached=cached)
    assert shared + sum(each.step.at(NUM_IMAGES) for each in costs) == pytest.approx(counted, rel=0.05)
    counted = eval_flops(backbone(), members(*names), num_images=NUM_IMAGES, cached=cached)
    assert shared + sum(each.evaluate.at(NUM_IMAGES) for each in costs) == pytest.approx(counted, rel=0.05)


def test_what_comes_before_the_first_tuned_depth_is_shared() -> None:
    depths = {name: cost(name).num_shared_blocks for name in TRIALS}
    assert depths == {
        "linear": 4, "last": 3, "two last": 2, "all": 0, "lora": 2, "prompts": 0, "full": 0, "unipt": 4, "dtl": 2
    }  # fmt: skip
    assert cost("full").shared == 0
    assert cost("last").shared < cost("unipt").shared == frozen()[-1]


def test_learning_rates_change_no_cost_and_a_second_member_of_a_kind_adds_its_own_alone() -> None:
    more = step_flops(backbone(), members("last", "last")) - step_flops(backbone(), members("last"))
    assert more == cost("last").step.at(1)


def test_kept_bytes_grow_with_what_is_tuned_and_weights_are_not_counted() -> None:
    kept = [cost(name).kept_bytes for name in ("linear", "last", "two last", "all")]
    assert kept == sorted(kept)
    assert kept[0] < 4 * (TINY["embed_dim"] + 4 * TRIALS["linear"].num_classes)
    solo, pair = (saved_bytes(Cohort(backbone(), members(*names)), batch(2)) for names in (["all"], ["all"] * 2))
    assert solo < pair <= 2 * 2 * cost("all").kept_bytes * 1.01


def test_a_members_bytes_are_four_times_its_parameters() -> None:
    assert cost("linear").member_bytes == 4 * 4 * (TINY["embed_dim"] + 1) * TRIALS["linear"].num_classes


def test_counting_leaves_the_backbone_and_the_number_of_threads_alone() -> None:
    before = {name: value.clone() for name, value in backbone().trunk.model.state_dict().items()}
    trial_cost(backbone(), TRIALS["full"])
    assert all(torch.equal(value, before[name]) for name, value in backbone().trunk.model.state_dict().items())


def test_noise_for_known_states_needs_no_images() -> None:
    shapes = state_shapes(backbone())
    made = random_batch(backbone(), 2, {3: shapes[3]}, images=False)
    assert made.images is None
    assert made.states[3].shape == (2, *shapes[3])


def test_a_member_that_cannot_step_is_named() -> None:
    broken = members("linear")
    broken[0].parts["head"] = torch.nn.Linear(3, 2)
    with pytest.raises(ConfigError, match="cannot take a training step: RuntimeError"):
        step_flops(backbone(), broken)


def test_lines_go_through_their_values_and_below_none() -> None:
    assert Line.through({1: 5.0, 3: 9.0}) == Line(fixed=3.0, per_image=2.0)
    assert Line.through({2: 4.0, 4: 10.0}) == Line(fixed=0.0, per_image=2.5)
    assert Line.through({2: 4.0, 4: 3.0}) == Line(fixed=3.0, per_image=0.0)
    assert Line(fixed=1.0, per_image=2.0).scaled(3.0, 4.0).at(5) == 43.0


@pytest.mark.parametrize("name", TRIALS)
def test_on_shapes_alone_the_same_is_counted(name: str) -> None:
    assert trial_cost(backbone().shapes, TRIALS[name]) == cost(name)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2)}),
        ("eva02_tiny_patch14_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}),
        ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    ],
)
def test_other_families_are_counted_alike_on_shapes_alone(model: str, options: dict[str, Any]) -> None:
    family = Backbone.load(model, weights="none", img_size=56, options=options)
    for trial in (TRIALS["full"], trial_of(adapter("block", depths="last:1"))):
        assert trial_cost(family.shapes, trial) == trial_cost(family, trial)
