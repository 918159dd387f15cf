"""What one worker of a trial does: a cohort of one, trained in a Ray Train worker group.

Data and backbone arrive through Ray's object store, so a worker needs no file of the driver's machine.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from pipelines.shared import BUNDLE, Shared
from utuning.backbone import Backbone
from utuning.bundle import bundle_bytes, save_bundle
from utuning.cohort import Cohort, Score
from utuning.configs import TrialConfig
from utuning.data.loader import Loader
from utuning.member import Member

STATE = "state.pt"


def load_backbone(shared: Shared) -> Backbone:
    """Build the backbone from the arrays of the object store."""
    arrays = ray.get(shared.backbone_state)
    # The store's pages are read-only; the model copies them into its own parameters.
    return Backbone.from_config(
        shared.backbone, {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    )


class TrialJob:
    """One trial on this worker: loaders, member, cohort, and what has been measured so far."""

    def __init__(self, trial: TrialConfig, shared: Shared, gate: Any) -> None:
        torch.set_num_threads(shared.cpus_per_worker)
        context = ray.train.get_context()
        self.worker, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.trial, self.shared, self.gate = trial, shared, gate
        self.backbone = load_backbone(shared).to(ray.train.torch.get_device())
        self.train_loader, self.val_loader = self._loader("train"), self._loader("val")
        self.member = Member(
            self.backbone,
            num_classes=trial.num_classes,
            config=trial.train,
            tuners=trial.tuners,
            steps_per_epoch=len(self.train_loader),
        )
        self.cohort = Cohort(
            self.backbone,
            [self.member],
            reduce=_reduce if self.num_workers > 1 else lambda tensor: None,
            worker=self.worker,
            num_workers=self.num_workers,
            precision=trial.precision,
        )
        self.train_time_s = 0.0

    def run(self) -> None:
        """Train epoch by epoch from the last checkpoint, reporting each, for as long as the gate lets it."""
        done, metrics = self._restore()
        if done == self.trial.train.epochs:
            self._report(done, metrics)
        for epoch in range(done, self.trial.train.epochs):
            if epoch > done and not ray.get(self.gate.may_train.remote(epoch + 1)):
                return
            self._report(epoch + 1, self._epoch(epoch))

    def _epoch(self, epoch: int) -> dict[str, float]:
        start = time.perf_counter()
        loss = self.cohort.train_epoch(self.train_loader.epoch(epoch))[0]
        seconds = time.perf_counter() - start
        self.train_time_s += seconds
        score = self.cohort.evaluate(self.val_loader.epoch(0))[0]
        return self._metrics(epoch + 1, loss, score, seconds)

    def _metrics(self, epoch: int, loss: float, score: Score, seconds: float) -> dict[str, float]:
        parameters = self.member.num_parameters()
        return {
            "epoch": epoch,
            "train/loss": loss,
            "val/loss": score.loss,
            "val/accuracy": score.accuracy,
            "train_time_s": self.train_time_s,
            "images_per_s": self.train_loader.num_examples / seconds,
            "input_wait_share": self.train_loader.input_wait_s / self.train_time_s,
            "peak_memory_bytes": peak_memory_bytes(),
            "trainable_params": sum(parameters.values()),
            "tuner_params": parameters["tuners"],
            "head_params": parameters["head"],
        }

    def _report(self, epoch: int, metrics: dict[str, float]) -> None:
        """Report to Train; worker 0 hands over the checkpoint, which is resume state and bundle."""
        if self.worker != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            bundle = save_bundle(
                Path(folder) / BUNDLE,
                self.member,
                backbone=self.backbone,
                trial=self.trial,
                class_names=self.shared.class_names,
                metrics=metrics,
                versions=self.shared.versions,
            )
            metrics = {**metrics, "bundle_bytes": bundle_bytes(bundle)}
            torch.save({"member": self.member.state_dict(), "epoch": epoch, "metrics": metrics}, Path(folder) / STATE)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def _restore(self) -> tuple[int, dict[str, float]]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return 0, {}
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / STATE, map_location=self.cohort.device, weights_only=True)
        self.member.load_state_dict(state["member"])
        self.train_time_s = state["metrics"]["train_time_s"]
        return state["epoch"], state["metrics"]

    def _loader(self, split: str) -> Loader:
        return Loader(
            ray.get(self.shared.tables[split]),
            self.backbone.preprocessing,
            global_batch_size=self.trial.train.batch_size,
            worker=self.worker,
            num_workers=self.num_workers,
            seed=self.trial.train.seed,
            recipe=self.trial.recipe,
            train=split == "train",
            threads=self.shared.cpus_per_worker,
        )


def peak_memory_bytes() -> int:
    """Peak memory of this worker: the allocator's on a GPU, else the process's resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reduce(tensor: torch.Tensor) -> None:
    dist.all_reduce(tensor)
