"""What one worker does for a cohort: rounds of epochs for members that come and go, on a backbone that stays.

Data arrive through Ray's object store, so a worker needs no file of the driver's machine; a split too large for that
arrives as its name, and the worker reads it where it lies.
"""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from pipelines.cohorts.groups import Work
from pipelines.cohorts.progress import ProgressStore
from pipelines.cohorts.roster import ERROR, Joining, Report, Round
from pipelines.cohorts.shared import BUNDLE
from pipelines.cohorts.spared import COHORT, GROUP, Spared
from pipelines.cohorts.worker import Worker, peak_memory_bytes
from utuning.bundles.bundle import bundle_bytes, save_bundle
from utuning.bundles.probe import probe_logits
from utuning.cohort import Cohort, Score
from utuning.configs import TrialConfig
from utuning.data.loader import Loader
from utuning.data.rows import chained
from utuning.data.stored import opened
from utuning.errors import BundleError
from utuning.isolation import describe
from utuning.member import Member
from utuning.prefix import CACHE_DTYPES, Prefix, Useful, state_shapes
from utuning.prefix_cache import PrefixCache

STATE = "state.pt"


@dataclass
class Seated:
    """A member on this worker, and what has been measured of it."""

    member: Member
    joining: Joining
    trial: TrialConfig
    epochs_done: int = 0
    train_time_s: float = 0.0


class CohortJob:
    """The cohort on this worker: loaders, caches and members."""

    def __init__(self, worker: Worker, work: Work) -> None:
        template = TrialConfig.from_dict(work.template)
        self.worker, self.work, self.template = worker, work, template
        self.backbone, self.shared, self.service = worker.backbone, worker.shared, worker.service
        self.store = ProgressStore(self.shared.members)
        self.loaders = {"train": self._loader("train", template.train_splits)}
        # What a final model trained on cannot say how good it is.
        if "val" not in template.train_splits:
            self.loaders["val"] = self._loader("val", ("val",))
        self.prefixes = self._prefixes()
        self.seated: dict[str, Seated] = {}
        # Memory may have been what its workers were lost to.
        self.num_groups = 2**work.lost
        self.train_time_s = self.input_wait_s = 0.0
        self.spared = Spared(self.backbone, self.loaders.get("val", self.loaders["train"]))

    def run(self) -> None:
        """Train rounds until the cohort is over."""
        name = self.work.cohort
        while (round_ := self.worker.told(lambda: ray.get(self.service.next_round.remote(name)))) is not None:
            reports = self._seat(round_)
            reports |= self._train([seat for seat in sorted(round_.training) if seat in self.seated])
            if self.worker.number == 0:
                ray.get(self.service.deliver.remote(name, reports))

    def _seat(self, round_: Round) -> dict[str, Report]:
        """Let members go that are in the round no more, and build new ones; reports those that cannot be built."""
        wanted = {joining.seat: joining for joining in round_.members}
        self.seated = {
            seat: seated
            for seat, seated in self.seated.items()
            if seat in wanted and wanted[seat].number == seated.joining.number
        }
        failed: dict[str, Report] = {}
        for seat in wanted.keys() - self.seated.keys():
            try:
                self.seated[seat] = self._restored(wanted[seat])
            except Exception as error:
                failed[seat] = {ERROR: describe(error)}
        for prefix in self.prefixes.values():
            prefix.release(self.backbone, [seated.member for seated in self.seated.values()])
        return failed

    def _restored(self, joining: Joining) -> Seated:
        trial = TrialConfig.from_dict(joining.trial)
        member = Member.from_trial(self.backbone, trial, steps_per_epoch=len(self.loaders["train"]))
        if joining.path is None:
            return Seated(member, joining, trial)
        with self.store.open(joining.path) as folder:
            state = torch.load(folder / STATE, map_location=self.worker.device, weights_only=True)
        member.load_state_dict(state["member"])
        return Seated(member, joining, trial, state["epoch"], state["train_time_s"])

    def _train(self, seats: Sequence[str]) -> dict[str, Report]:
        """An epoch for each of these; those with the same epoch before them see the same batches, and share them."""
        phases: dict[int, list[str]] = {}
        for seat in seats:
            phases.setdefault(self.seated[seat].epochs_done, []).append(seat)
        reports: dict[str, Report] = {}
        losses: dict[str, float] = {}
        before_s, waited_s = self.train_time_s, self.input_wait_s
        for epoch, together in sorted(phases.items()):
            for seat, loss, error in self._train_phase(together, epoch):
                losses[seat] = loss
                if error:
                    reports[seat] = {ERROR: error}
        living = [seat for seat in seats if seat not in reports]
        scores, reasons = self._evaluate(living)
        work = {
            COHORT: self.work.cohort,
            GROUP: self.worker.group,
            "cohort_members": len(seats),
            "cohort_images_per_s": self.loaders["train"].num_examples * len(seats) / (self.train_time_s - before_s),
            "input_wait": (self.input_wait_s - waited_s) / (self.train_time_s - before_s),
            **self.spared.report(self.work.start_s),
        }
        whole = [
            seat for seat, score in zip(living, scores, strict=True) if score is None or math.isfinite(score.accuracy)
        ]
        logits = self._probed(whole)
        for seat, score in zip(living, scores, strict=True):
            if seat not in whole:
                reports[seat] = {ERROR: f"it cannot be evaluated: {reasons.get(seat, 'its scores are no numbers')}"}
                continue
            try:
                reports[seat] = self._report(seat, losses[seat], score, logits.get(seat)) | work
            except BundleError as error:
                reports[seat] = {ERROR: str(error)}
        return reports

    def _train_phase(self, seats: Sequence[str], epoch: int) -> list[tuple[str, float, str | None]]:
        """Train one epoch together: each seat's mean loss, and why it failed, if it did."""
        started, loader = time.perf_counter(), self.loaders["train"]
        cohort = self._cohort(seats)
        losses = cohort.train_epoch(loader.epoch(epoch, self._useful("train", cohort.members)))
        self.spared.add(cohort.sharing)
        self.num_groups = max(self.num_groups, len(cohort.isolation.groups))
        seconds = time.perf_counter() - started
        self.train_time_s += seconds
        self.input_wait_s += cohort.input_wait_s
        outcome: list[tuple[str, float, str | None]] = []
        for place, (seat, loss) in enumerate(zip(seats, losses, strict=True)):
            self.seated[seat].epochs_done += 1
            self.seated[seat].train_time_s += seconds / len(seats)
            error = cohort.failures.get(place)
            if error is None and not math.isfinite(loss):
                error = f"its loss is {loss} in epoch {epoch + 1}; a lower learning rate may help"
            outcome.append((seat, loss, error))
        return outcome

    def _evaluate(self, seats: Sequence[str]) -> tuple[Sequence[Score | None], dict[str, str]]:
        """Each seat's score on val, None where val is trained on; and why those have none that failed."""
        if not seats or "val" not in self.loaders:
            return [None] * len(seats), {}
        cohort = self._cohort(seats)
        scores = cohort.evaluate(self.loaders["val"].epoch(0, self._useful("val", cohort.members)))
        self.spared.add(cohort.sharing)
        return scores, {seats[place]: reason for place, reason in cohort.failures.items()}

    def _probed(self, seats: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the bundles' probe images give: for all members in one pass, where they are saved."""
        if self.worker.number != 0 or not seats:
            return {}
        members = [self.seated[seat].member for seat in seats]
        return dict(zip(seats, probe_logits(self.backbone, members), strict=True))

    def _cohort(self, seats: Sequence[str]) -> Cohort:
        return Cohort(
            self.backbone,
            [self.seated[seat].member for seat in seats],
            reduce=self.worker.sum,
            worker=self.worker.number,
            num_workers=self.worker.num_workers,
            precision=self.template.precision,
            num_groups=self.num_groups,
        )

    def _report(self, seat: str, loss: float, score: Score | None, logits: torch.Tensor | None) -> Report:
        """An epoch's metrics; worker 0 saves the member's state and bundle beside them."""
        seated, parameters = self.seated[seat], self.seated[seat].member.num_parameters()
        metrics = {
            "epoch": seated.epochs_done,
            "train/loss": loss,
            **({} if score is None else {"val/loss": score.loss, "val/accuracy": score.accuracy}),
            "lr": seated.trial.train.lr,
            "train_time_s": seated.train_time_s,
            "images_per_s": self.loaders["train"].num_examples * seated.epochs_done / seated.train_time_s,
            "peak_memory_bytes": peak_memory_bytes(),
            "trainable_params": sum(parameters.values()),
            "tuner_params": parameters["tuners"],
            "head_params": parameters["head"],
        }
        return self._saved(seated, metrics, logits) if self.worker.number == 0 else {}

    def _saved(self, seated: Seated, metrics: Mapping[str, Any], logits: torch.Tensor | None) -> Report:
        with tempfile.TemporaryDirectory() as folder:
            bundle = save_bundle(
                Path(folder) / BUNDLE,
                seated.member,
                backbone=self.backbone,
                trial=seated.trial,
                class_names=self.shared.class_names,
                metrics=metrics,
                versions=self.shared.versions,
                logits=logits,
            )
            report = {**metrics, "bundle_bytes": bundle_bytes(bundle)}
            state = {
                "member": seated.member.state_dict(),
                "epoch": seated.epochs_done,
                "train_time_s": seated.train_time_s,
            }
            torch.save(state, Path(folder) / STATE)
            return self.store.save(seated.joining.member_id, seated.epochs_done, Path(folder), report)

    def _loader(self, name: str, splits: Sequence[str]) -> Loader:
        """Load the rows of these splits, one after another, for training or not."""
        trial = self.template
        return Loader(
            chained([opened(self.shared.split(split), self.shared.rows_cache) for split in splits]),
            self.backbone.preprocessing,
            global_batch_size=trial.train.batch_size,
            worker=self.worker.number,
            num_workers=self.worker.num_workers,
            seed=trial.train.seed,
            recipe=trial.recipe,
            train=name == "train",
            threads=self.shared.group.layout.cpus_per_worker,
            views=None if trial.views == "online" else trial.views,
        )

    def _prefixes(self) -> dict[str, Prefix]:
        """The cached states of each split; none where every epoch has crops of its own."""
        trial, cache = self.template, PrefixCache(Path(self.shared.cache), self.shared.cache_bytes)
        if trial.views == "online":
            return {}
        shapes = state_shapes(self.backbone)
        drawn = {"recipe": trial.recipe, "seed": trial.train.seed}
        return {
            split: Prefix(
                cache,
                shapes,
                num_rows=loader.num_examples,
                num_views=trial.views if split == "train" else 1,
                dtype=CACHE_DTYPES[trial.cache_dtype],
                facts={
                    "backbone": trial.backbone_fingerprint,
                    "data": trial.data_fingerprint,
                    "split": "+".join(trial.train_splits) if split == "train" else split,
                    "preprocessing": self.backbone.preprocessing.as_dict(),
                    "precision": trial.precision,
                    "device": self.worker.device.type,
                    **(drawn if split == "train" else {}),
                },
            )
            for split, loader in self.loaders.items()
        }

    def _useful(self, split: str, members: Sequence[Member]) -> Useful | None:
        """The cached states that these members read, within the split's part of the budget."""
        if split not in self.prefixes:
            return None
        num_rows = sum(loader.num_examples for loader in self.loaders.values())
        budget = self.shared.cache_bytes * self.loaders[split].num_examples // num_rows
        return self.prefixes[split].useful(self.backbone, members, budget)
