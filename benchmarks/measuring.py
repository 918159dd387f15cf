"""What several benchmarks do in the same way: train without Ray, score, take time and memory, and write results."""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pipelines import provenance
from pipelines.leaderboard import half_width
from pipelines.plan import Prepared
from utuning import costs
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.data.loader import Batch, Loader
from utuning.data.shards import read_split
from utuning.member import Member

EVAL_BATCH_SIZE = 64
# Read at the start: a result file that is written while measuring is itself a change to the checkout.
SOURCE = {"commit": provenance.commit(), "versions": provenance.versions(), "machine": provenance.machine()}


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


def in_turns(rounds: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side, measured in turns; the first run of each is not counted."""
    for side in sides:
        side()
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for place, side in enumerate(sides):
            started = time.perf_counter()
            side()
            seconds[place].append(time.perf_counter() - started)
    return [median(each) for each in seconds]


def resident_bytes(process: int | None = None) -> int:
    """Memory of a process, by default this one, that lies in RAM (Linux)."""
    pages = Path(f"/proc/{process or 'self'}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def tested(accuracies: Sequence[float]) -> dict[str, Any]:
    """Test accuracies of some seeds as a row's values: all, their mean, half their 95 % confidence interval."""
    return {"test": accuracies, "test_mean": fmean(accuracies), "test_ci": half_width(accuracies)}


def percent(mean: float, half: float | None) -> str:
    """An accuracy with its confidence interval, for a page; one seed alone has none."""
    return f"{100 * mean:.1f}" if half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"


def table_row(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def write_result(path: Path, command: str, page: str | None = None, **values: Any) -> None:
    """Write a result file with the commit, the versions and the machine it comes from, and a page of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if page is not None:
        path.with_suffix(".md").write_text(page)
    path.write_text(json.dumps({"command": command, **values, **SOURCE}, indent=2) + "\n")
