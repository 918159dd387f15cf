"""Paired comparison of two configurations A and B on the same test images: pure functions over values.

Two things could have come out otherwise: the seeds (initial values, order, crops) and the test images. Each has its own
test, and neither stands in for the other: over seeds, Student's paired t of their accuracies, the images fixed; over
images, McNemar's exact test for one seed, and for several the paired bootstrap of what an image gives on average over
the seeds, which are fixed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from pipelines.results.leaderboard import half_width

RESAMPLES, BOOTSTRAP_SEED = 10_000, 0
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean difference A - B in accuracy, from -1 to 1, its 95 % interval, and the two-sided `p` of a test."""

    mean: float
    low: float
    high: float
    p: float | None = None

    @property
    def shown(self) -> bool:
        """Whether the interval leaves no difference out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Discordant:
    """McNemar's exact test: images that A alone or B alone gets right, and the two-sided p of an even split."""

    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the common seeds say of A - B; `over_seeds` is None for one seed, the rest where images are not known."""

    seeds: tuple[int, ...]
    accuracies: Mapping[int, tuple[float, float]]
    over_seeds: Estimate | None
    num_images: int | None
    over_images: Estimate | None
    per_seed: Mapping[int, Discordant]

    @property
    def mean(self) -> float:
        """The mean difference over the seeds."""
        return fmean(a - b for a, b in self.accuracies.values())

    @property
    def verdict(self) -> str:
        """In words, and never more than the tests say."""
        tests = {"seeds": self.over_seeds, "images": self.over_images}
        missing = [name for name, found in tests.items() if found is None]
        doubts = [name for name, found in tests.items() if found is not None and not found.shown]
        if len(missing) == len(tests):
            return "one seed and no answers by image: nothing can be said"
        if doubts:
            return f"no difference is shown: other {' or '.join(doubts)} could give the opposite"
        better = f"{'A' if self.mean > 0 else 'B'} is better"
        return f"{better} on these {missing[0]}; of other {missing[0]} nothing is known" if missing else better


def compared(
    accuracies: Mapping[int, tuple[float, float]], answers: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> Comparison:
    """Compare A and B by seed.

    Args:
        accuracies: test accuracies of A and B for each common seed, from 0 to 1.
        answers: for the seeds where they are known, whether each image is right by A and by B: shapes (N,).
    """
    seeds = tuple(sorted(accuracies))
    whole = bool(seeds) and set(answers) == set(seeds)
    images = [answers[seed][0].astype(float) - answers[seed][1] for seed in seeds] if whole else []
    return Comparison(
        seeds=seeds,
        accuracies={seed: accuracies[seed] for seed in seeds},
        over_seeds=paired_t([a - b for a, b in (accuracies[seed] for seed in seeds)]) if len(seeds) > 1 else None,
        num_images=len(images[0]) if whole else None,
        over_images=image_bootstrap(np.mean(images, axis=0)) if whole else None,
        per_seed={seed: mcnemar(*answers[seed]) for seed in seeds if seed in answers},
    )


def paired_t(differences: Sequence[float]) -> Estimate:
    """Estimate the mean of two or more differences, one a seed, by Student's paired t."""
    from scipy.special import stdtr

    mean, spread, count = fmean(differences), stdev(differences), len(differences)
    half = half_width(differences) or 0.0
    if spread == 0:
        return Estimate(mean=mean, low=mean, high=mean, p=1.0 if mean == 0 else 0.0)
    p = 2 * float(stdtr(count - 1, -abs(mean) / (spread / count**0.5)))
    return Estimate(mean=mean, low=mean - half, high=mean + half, p=min(1.0, p))


def mcnemar(right_a_N: np.ndarray, right_b_N: np.ndarray) -> Discordant:
    """Test one run of A against one of B on N images: whether those that one alone gets right split evenly."""
    from scipy.special import bdtr

    only_a, only_b = int((right_a_N & ~right_b_N).sum()), int((right_b_N & ~right_a_N).sum())
    p = 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))
    return Discordant(only_a=only_a, only_b=only_b, p=min(1.0, p))


def image_bootstrap(differences_N: np.ndarray, resamples: int = RESAMPLES) -> Estimate:
    """Estimate the mean difference over images drawn anew: the percentile bootstrap, always the same draws.

    An image's difference takes few values, so drawing images is drawing how often each value comes.
    """
    values_V, counts_V = np.unique(differences_N, return_counts=True)
    total = int(counts_V.sum())
    drawn_RV = np.random.default_rng(BOOTSTRAP_SEED).multinomial(total, counts_V / total, size=resamples)
    low, high = np.quantile(drawn_RV @ values_V / total, (LEVEL / 2, 1 - LEVEL / 2))
    return Estimate(mean=float(differences_N.mean()), low=float(low), high=float(high))
