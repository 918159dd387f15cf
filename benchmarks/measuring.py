"""What several benchmarks do in the same way: train without Ray, score, count kept bytes, state test accuracies."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from pipelines.planning.plan import Prepared
from pipelines.results.leaderboard import half_width
from utuning import costs
from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.data.loader import Loader
from utuning.data.shards import read_split
from utuning.member import Member

EVAL_BATCH_SIZE = 64


def loader(
    ready: Prepared, split: str, batch_size: int = EVAL_BATCH_SIZE, seed: int = 0, views: int | None = None
) -> Loader:
    """One worker's loader of a split; only `train` is shuffled and augmented."""
    return Loader(
        read_split(ready.dataset, split),
        ready.backbone.preprocessing,
        global_batch_size=batch_size,
        seed=seed,
        recipe=ready.space.recipe,
        train=split == "train",
        views=views,
    )


def train_together(ready: Prepared, trials: Sequence[TrialConfig]) -> list[Member]:
    """Train trials of one seed, batch size and number of epochs as one cohort."""
    config = trials[0].train
    batches = loader(ready, "train", config.batch_size, config.seed)
    members = [Member.from_trial(ready.backbone, trial, steps_per_epoch=len(batches)) for trial in trials]
    cohort = Cohort(ready.backbone, members)
    for epoch in range(config.epochs):
        cohort.train_epoch(batches.epoch(epoch))
    return members


def accuracies(ready: Prepared, members: Sequence[Member], split: str) -> list[float]:
    """Top-1 accuracy of each member on a split, scored as one cohort."""
    return [score.accuracy for score in Cohort(ready.backbone, members).evaluate(loader(ready, split).epoch(0))]


def saved_bytes(backbone: Backbone, member: Member, batch: Batch) -> int:
    """Bytes that one solo step keeps for its backward pass, weights not counted."""
    return costs.saved_bytes(Cohort(backbone, [member]), batch)


def tested(accuracies: Sequence[float]) -> dict[str, Any]:
    """Test accuracies of some seeds as a row's values: all, their mean, half their 95 % confidence interval."""
    return {"test": accuracies, "test_mean": fmean(accuracies), "test_ci": half_width(accuracies)}


def percent(mean: float, half: float | None) -> str:
    """An accuracy with its confidence interval, for a page; one seed alone has none."""
    return f"{100 * mean:.1f}" if half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"
