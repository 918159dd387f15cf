"""What several benchmarks measure in the same way: training without Ray, accuracy, bytes kept for the backward pass."""

from collections.abc import Sequence

from pipelines.plan import Prepared
from utuning import costs
from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.data.loader import Loader
from utuning.data.shards import read_split
from utuning.member import Member

EVAL_BATCH_SIZE = 64


def loader(ready: Prepared, split: str, batch_size: int = EVAL_BATCH_SIZE, seed: int = 0) -> Loader:
    """One worker's loader of a split; only `train` is shuffled and augmented."""
    return Loader(
        read_split(ready.dataset, split),
        ready.backbone.preprocessing,
        global_batch_size=batch_size,
        seed=seed,
        recipe=ready.space.recipe,
        train=split == "train",
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
