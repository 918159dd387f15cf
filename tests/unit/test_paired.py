"""Paired comparison: laws of the tests, and agreement with scipy's own."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.results.paired import Comparison, compared, image_bootstrap, mcnemar, paired_t

DIFFERENCES = st.lists(st.floats(-1, 1, allow_subnormal=False).map(lambda x: round(x, 4)), min_size=2, max_size=8)
RIGHT = st.integers(1, 60).flatmap(
    lambda count: st.tuples(*[st.lists(st.booleans(), min_size=count, max_size=count).map(np.array)] * 2)
)


@given(DIFFERENCES)
def test_the_paired_t_is_scipys_and_swapping_turns_its_sign(differences: Sequence[float]) -> None:
    found, turned = paired_t(differences), paired_t([-each for each in differences])
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=1e-12)
    assert turned.p == pytest.approx(found.p) and found.low <= found.mean <= found.high
    if np.std(differences) > 1e-6:
        other = stats.ttest_rel(differences, np.zeros(len(differences)))
        assert found.p == pytest.approx(other.pvalue, abs=1e-9)
        assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval(0.95)), rel=1e-3, abs=1e-6)


@given(DIFFERENCES, st.randoms())
def test_the_order_of_seeds_does_not_matter(differences: list[float], shuffle: object) -> None:
    mixed = list(differences)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = paired_t(differences), paired_t(mixed)
    assert (one.mean, one.low, one.high, one.p) == pytest.approx((other.mean, other.low, other.high, other.p))


def test_seeds_without_any_spread_leave_no_doubt_of_seeds() -> None:
    assert paired_t([0.0, 0.0]).p == 1.0 and not paired_t([0.0, 0.0]).shown
    assert paired_t([0.25, 0.25]).p == 0.0 and paired_t([0.25, 0.25]).shown


@given(RIGHT)
def test_mcnemar_is_the_exact_test_of_an_even_split_and_symmetric(right: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = right
    found, turned = mcnemar(a, b), mcnemar(b, a)
    assert (turned.only_a, turned.only_b, turned.p) == (found.only_b, found.only_a, found.p)
    assert found.only_a - found.only_b == a.sum() - b.sum(), "what differs is what the accuracies differ by"
    discordant = found.only_a + found.only_b
    expected = stats.binomtest(found.only_a, discordant, 0.5).pvalue if discordant else 1.0
    assert found.p == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(50, 400), st.floats(0.1, 0.9))
def test_the_bootstrap_of_one_seed_is_the_binomials_own_interval(num_images: int, share: float) -> None:
    won = round(num_images * share)
    found = image_bootstrap(np.repeat([1.0, 0.0], [won, num_images - won]))
    low, high = stats.binom.ppf((0.025, 0.975), num_images, won / num_images) / num_images
    assert (found.low, found.high) == pytest.approx((low, high), abs=2.5 / num_images)


@given(st.lists(st.sampled_from([-1.0, -1 / 3, 0.0, 1 / 3, 1.0]), min_size=2, max_size=80).map(np.array))
def test_the_bootstrap_holds_its_mean_and_swaps(differences: np.ndarray) -> None:
    found, turned = image_bootstrap(differences), image_bootstrap(-differences)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert differences.min() - 1e-9 <= found.low and found.high <= differences.max() + 1e-9
    assert turned.mean == pytest.approx(-found.mean)
    assert image_bootstrap(differences[::-1]).low == found.low, "the order of images does not matter"


def of(*right: tuple[Sequence[bool], Sequence[bool]], answers: bool = True) -> Comparison:
    pairs = {seed: (np.array(a), np.array(b)) for seed, (a, b) in enumerate(right)}
    accuracies = {seed: (float(a.mean()), float(b.mean())) for seed, (a, b) in pairs.items()}
    return compared(accuracies, pairs if answers else {})


@given(st.integers(1, 4), st.integers(5, 40), st.integers(0, 1000))
def test_over_images_and_over_seeds_the_mean_difference_is_the_same(seeds: int, num_images: int, start: int) -> None:
    rng = np.random.default_rng(start)
    draws = [tuple(rng.random((2, num_images)) < 0.7) for _ in range(seeds)]
    found = of(*draws)
    assert found.over_images is not None and found.over_images.mean == pytest.approx(found.mean)
    assert (found.over_seeds is None) == (seeds == 1)
    if found.over_seeds is not None:
        assert found.over_seeds.mean == pytest.approx(found.mean)
    assert set(found.per_seed) == set(range(seeds)) and found.num_images == num_images


GOOD, BAD = [True] * 80 + [False] * 20, [True] * 20 + [False] * 80


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (of((GOOD, BAD), (GOOD, BAD)), "A is better"),
        (of((BAD, GOOD), (BAD, GOOD)), "B is better"),
        (of((GOOD, BAD), (BAD, GOOD)), "no difference is shown: other seeds or images"),
        (of((GOOD, GOOD), (GOOD, GOOD)), "no difference is shown"),
        (of((GOOD, BAD)), "A is better on these seeds; of other seeds nothing is known"),
        (of((GOOD, BAD), (GOOD, BAD), answers=False), "A is better on these images; of other images"),
        (of((GOOD, BAD), answers=False), "nothing can be said"),
    ],
)
def test_the_verdict_says_no_more_than_the_tests(found: Comparison, says: str) -> None:
    assert found.verdict.startswith(says) or says in found.verdict


def test_a_seed_that_others_would_turn_is_no_win() -> None:
    """A wins by far with one seed and loses with two: over these images it is ahead, over seeds it is not."""
    found = of((GOOD, BAD), ([True] * 45 + [False] * 55, [True] * 50 + [False] * 50), (GOOD, GOOD))
    assert found.over_images is not None and found.over_images.shown
    assert found.over_seeds is not None and not found.over_seeds.shown
    assert found.verdict == "no difference is shown: other seeds could give the opposite"
