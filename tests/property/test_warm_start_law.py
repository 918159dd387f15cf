"""From a trial back to a space, and from earlier searches to proposals."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.planning.proposals import Remembered, Result, distances, num_proposals, ordinal, propose
from search_spaces.domains import Choice, Interval, draw, replay
from search_spaces.fitting import Terms, fit, gap
from search_spaces.loader import check_space, load_space
from search_spaces.space import Facts, SearchSpace
from tests.tools import adapter, train, trial_of
from utuning.configs import TrialConfig, TunerConfig
from utuning.statistics import DatasetStatistics, DepthStatistics

FACTS = Facts(data_fingerprint="new", num_classes=5, backbone_fingerprint="b")
DEMO = load_space("demo")


def space(**changes: Any) -> SearchSpace:
    values = {
        "name": "tiny",
        "dataset": {"name": "tiny", "source": "folder", "path": "images"},
        "backbone": {"name": "vit_tiny_patch16_224", "weights": "none"},
        "train": {"lr": {"loguniform": [1e-3, 1e-2]}, "epochs": 2},
        "tuners": [
            {
                "method": "p_adapter",
                "ops": {"choice": [["attn"], ["attn", "mlp"]]},
                "depths": {"choice": ["all", "last:1", "last:2"]},
                "bottleneck_dim": {"choice": [4, 16]},
            }
        ],
        "baselines": [{"tuners": []}],
        "budget": {"num_trials": 9},
        **changes,
    }
    return check_space(values, "tiny")


TINY = space()


def statistics(separability: float, num_blocks: int = 4) -> DatasetStatistics:
    one = DepthStatistics(separability=separability, nearest_mean=0.5, dimension=0.5, spread=0.5)
    return DatasetStatistics(
        num_classes=5, num_images=100, num_sampled=100, states=(one,) * (num_blocks + 1), features=one
    )


def search(name: str, separability: float, trials: Sequence[TrialConfig], num_blocks: int = 4) -> Remembered:
    """An earlier search whose trials did as well as they stand."""
    named = [replace(trial, dataset=name, data_fingerprint=name) for trial in trials]
    results = tuple(Result(trial=trial, place=place) for place, trial in enumerate(named, 1))
    return Remembered(search_id=f"{name}-1", statistics=statistics(separability, num_blocks), results=results)


def drawn(space: SearchSpace, seed: int) -> TrialConfig:
    rng = random.Random(seed)
    return space.seeded(lambda where, domain: domain.sample(rng), FACTS)[0]


def fitted(space: SearchSpace, trial: TrialConfig, blocks: tuple[int, int] = (4, 4)) -> TrialConfig:
    picks = fit(space, trial, blocks)
    assert picks is not None
    return space.seeded(replay(picks), FACTS)[0]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_what_a_space_drew_it_draws_again(seed: int) -> None:
    for each in (DEMO, TINY):
        trial = drawn(each, seed)
        assert fitted(each, trial) == trial and gap(Terms.of(fitted(each, trial)), Terms.of(trial), (4, 4)) == 0


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_whatever_is_fitted_only_what_is_on_offer_is_picked(seed: int, num_blocks: int) -> None:
    trial = replace(drawn(DEMO, seed), train=train(lr=10 ** random.Random(seed).uniform(-6, 1)))
    picks = fit(TINY, trial, (4, num_blocks))
    assert (picks is None) == (trial.method != "p_adapter")

    def check(where: str, domain: Choice | Interval) -> Any:
        value = (picks or {})[where]
        if isinstance(domain, Choice):
            assert value in range(len(domain.values))
        else:
            assert domain.low <= value <= domain.high
        return value

    if picks is not None:
        draw(TINY.template, check)


def test_a_trial_of_elsewhere_becomes_the_nearest_one_here() -> None:
    far = trial_of(adapter("attn", depths="last:6", bottleneck_dim=20), train=train(lr=0.5, epochs=99))
    near = fitted(TINY, far, (4, 12))
    assert near.tuners[0] == adapter("attn", depths="last:2", bottleneck_dim=16)
    assert (near.train.lr, near.train.epochs) == (1e-2, 2)
    blocks = trial_of(adapter("attn", depths=(9, 10, 11), bottleneck_dim=4), train=train(lr=2e-3))
    assert fitted(TINY, blocks, (4, 12)).tuners[0].depths == "last:1"
    other = trial_of(adapter("mlp", "block", bottleneck_dim=4), train=train(lr=2e-3))
    assert gap(Terms.of(fitted(TINY, other)), Terms.of(other), (4, 4)) >= 1


@pytest.mark.parametrize("tuners", [(), (TunerConfig(method="lora"),), (adapter("attn"), adapter("mlp"))])
def test_other_methods_do_not_fit(tuners: tuple[TunerConfig, ...]) -> None:
    assert fit(TINY, trial_of(*tuners), (4, 4)) is None


def test_no_history_proposes_nothing() -> None:
    assert propose([], statistics(0.5), TINY, FACTS, 9) == []
    alone = search("a", 0.5, [trial_of()])
    assert propose([alone], statistics(0.5), TINY, FACTS, 9) == [], "a probe is nothing that this space draws"


def configurations(count: int, seed: int = 0) -> list[TrialConfig]:
    found = {trial.config_id: trial for trial in (drawn(TINY, seed + at) for at in range(4 * count))}
    return list(found.values())[:count]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), min_size=1, max_size=8), st.randoms())
def test_proposals_are_distinct_ours_and_the_same_for_any_order_of_the_history(
    given: list[tuple[float, int]], shuffle: random.Random
) -> None:
    history = [search(f"d{at}", share, configurations(8, seed)) for at, (share, seed) in enumerate(given)]
    found = propose(history, statistics(0.4), TINY, FACTS, 6)
    trials = [TINY.seeded(replay(each.picks), FACTS)[0] for each in found]
    assert len({trial.config_id for trial in trials}) == len(found) <= 6
    assert [trial.label for trial in trials] == [each.label for each in found]
    assert all(each.reason.startswith("like d") and "(distance " in each.reason for each in found)
    shuffled = list(history)
    shuffle.shuffle(shuffled)
    assert propose(shuffled, statistics(0.4), TINY, FACTS, 6) == found


def test_the_nearest_data_set_decides_and_places_count_not_accuracies() -> None:
    one, two = (trial_of(adapter("attn", bottleneck_dim=width), train=train(lr=3e-3)) for width in (4, 16))
    history = [search("bright", 0.9, [two, one]), search("dark", 0.1, [one, two])]
    for share, width, name in ((0.15, 4, "dark"), (0.8, 16, "bright")):
        first, *others = propose(history, statistics(share), TINY, FACTS, 9)
        assert f"r{width} " in first.label and first.reason.startswith(f"like {name} (distance 0.")
        assert first.reason.endswith(f"): {first.label} was 1st of 2")
        assert not others, "the other one did worse than the middle where it counts"


def test_many_searches_of_one_data_set_weigh_as_much_as_one() -> None:
    one, two = (trial_of(adapter("attn", bottleneck_dim=width), train=train(lr=3e-3)) for width in (4, 16))
    often = [replace(search("dark", 0.1, [one, two]), search_id=f"dark-{at}") for at in range(9)]
    (first,) = propose([search("bright", 0.5, [two, one]), *often], statistics(0.45), TINY, FACTS, 9)
    assert "r16" in first.label


def test_a_data_set_like_no_other_still_asks_the_nearest() -> None:
    one, two = (trial_of(adapter("attn", bottleneck_dim=width), train=train(lr=3e-3)) for width in (4, 16))
    crowd = [search(f"d{at}", 0.5, [one, two]) for at in range(2000)]
    one_depth = DepthStatistics(separability=0.9, nearest_mean=0.9, dimension=0.9, spread=0.9)
    sizes = {"num_classes": 5000, "num_images": 10**9}
    far = replace(statistics(0.9), states=(one_depth,) * 5, features=one_depth, **sizes)
    (distance, *_) = distances([each.statistics for each in crowd], far)
    assert exp(-(distance**2)) < 1e-100
    (first,) = propose(crowd, far, TINY, FACTS, 9)
    assert first.label == one.label


def test_what_is_nearly_the_same_waits() -> None:
    rates = [trial_of(adapter("attn", bottleneck_dim=4), train=train(lr=lr)) for lr in (3e-3, 3.1e-3)]
    other = trial_of(adapter("attn", "mlp", bottleneck_dim=16), train=train(lr=3e-3))
    worse = [trial_of(adapter("attn", depths="last:1", bottleneck_dim=16), train=train(lr=lr)) for lr in (1e-3, 9e-3)]
    found = propose([search("a", 0.5, [*rates, other, *worse])], statistics(0.5), TINY, FACTS, 9)
    assert [each.label for each in found] == [rates[0].label, other.label, rates[1].label]


def test_baselines_are_not_proposed() -> None:
    fixed = {"method": "p_adapter", "ops": ["attn"], "depths": "all", "bottleneck_dim": 4}
    ours = space(baselines=[{"tuners": [fixed], "train": {"lr": 3e-3}}])
    trials = [trial_of(adapter("attn", bottleneck_dim=width), train=train(lr=3e-3)) for width in (4, 16)]
    assert ours.baseline_trials(FACTS)[0].tuners == trials[0].tuners
    for each in (trials, trials[::-1]):
        found = propose([search("a", 0.5, each)], statistics(0.5), ours, FACTS, 9)
        assert [proposal.label for proposal in found] == ([] if each is trials else [trials[1].label])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_distances_are_zero_to_oneself_and_grow_with_the_difference(shares: list[float], own: float) -> None:
    found = distances([statistics(share) for share in shares], statistics(own))
    pairs = list(zip(shares, found, strict=True))
    assert all((distance == 0) == (share == own) or abs(share - own) < 1e-6 for share, distance in pairs)
    order = sorted(range(len(shares)), key=lambda at: abs(shares[at] - own))
    assert [round(found[at], 6) for at in order] == sorted(round(distance, 6) for distance in found)


def test_backbones_of_other_depths_are_compared_at_their_share() -> None:
    assert distances([statistics(0.3, num_blocks=12)], statistics(0.3, num_blocks=4)) == [pytest.approx(0, abs=1e-9)]


def test_half_of_a_search_is_proposed_at_most() -> None:
    assert [num_proposals(space(budget={"num_trials": count})) for count in (0, 1, 7, 21, 99)] == [0, 1, 4, 10, 10]


def test_ordinals() -> None:
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 102, 113)
    assert " ".join(map(ordinal, numbers)) == "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 113th"
