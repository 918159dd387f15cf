"""What a cohort spares, in seconds: frozen blocks that are not run again, and worker groups that are not started."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from utuning.backbone import Backbone
    from utuning.cohort import Sharing
    from utuning.data.loader import Loader

COHORT, GROUP = "cohort", "group"
BLOCKS, SHARE, START = "cohort_spared_s", "cohort_spared_share", "group_start_s"


class Spared:
    """A worker's count of it, from its start; what a block takes is measured on one batch of `loader`."""

    def __init__(self, backbone: "Backbone", loader: "Loader") -> None:
        self._block_s = _block_s(backbone, loader)
        self._run = self._alone = 0

    def add(self, sharing: "Sharing") -> None:
        """Add what one pass over a split counted."""
        self._run += sharing.run
        self._alone += sharing.alone

    def report(self, start_s: float) -> dict[str, float]:
        """The seconds so far, the share of all frozen blocks, and what the group's start took."""
        blocks = self._alone - self._run
        return {BLOCKS: blocks * self._block_s, SHARE: blocks / max(1, self._alone), START: start_s}


@dataclass
class Tally:
    """What a search has spared so far, from its trials' reports: an estimate of what it would take more without.

    `side_by_side` is how many trials' worker groups could start and run at a time if each had its own.
    """

    side_by_side: int = 1
    last: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    trials: dict[str, set[str]] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)

    def add(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Note a report, which says how its whole cohort is doing."""
        if COHORT in report:
            self.last[report[COHORT]] = report
            self.trials.setdefault(report[GROUP], set()).add(trial_id)
            self.starts[report[GROUP]] = report[START]

    @property
    def groups(self) -> int:
        """Worker groups not started: one for every trial but the first of each group."""
        return sum(len(trials) - 1 for trials in self.trials.values())

    @property
    def seconds(self) -> float:
        """Blocks not run, and for every trial but the first of a group its part of a start of workers."""
        blocks = sum(report[BLOCKS] for report in self.last.values())
        starts = sum(self.starts[group] * (len(trials) - 1) for group, trials in self.trials.items())
        return float(blocks + starts / self.side_by_side)


def _block_s(backbone: "Backbone", loader: "Loader") -> float:
    """Seconds of a frozen block for one image, from the second pass of a batch through all of them."""
    import torch

    from utuning.shared_rows import SharedRows

    batch = next(iter(loader.epoch(0))).to(next(backbone.trunk.model.parameters()).device)
    with torch.no_grad():
        images = backbone.normalise(batch.pixels)
        for _ in range(2):
            started = time.perf_counter()
            float(SharedRows(backbone.trunk, images).features().sum())  # reading it waits for a GPU
            seconds = time.perf_counter() - started
    return seconds / (len(images) * len(backbone.trunk.blocks))
