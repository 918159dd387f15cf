"""The cohort engine: trains a list of members on one backbone. A solo trial is a list of one.

The law: K members together have, at each step, the losses that each has alone (fp32; 1e-5). They share only frozen
computation; losses are summed, so each member's gradients come from its own rows alone.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from utuning.backbone import Backbone
from utuning.configs import Precision
from utuning.data.loader import Batch
from utuning.data.transforms import normalise
from utuning.errors import ConfigError
from utuning.member import Member
from utuning.streams import run_streams

Reduce = Callable[[Tensor], None]
"""Sums a flat tensor over all workers, in place."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Exact means over `count` images: cross-entropy in nats, and top-1 accuracy in [0, 1]."""

    loss: float
    accuracy: float
    count: int


class Cohort:
    """Members that train together, step by step, on the batches of one stream.

    Args:
        backbone: the frozen backbone, on the device that the cohort uses.
        members: who trains.
        reduce: sums a tensor over the workers; the default is one worker alone.
        worker: this worker's number, of `num_workers`.
        precision: `auto` is bf16 autocast on a GPU and fp32 on a CPU.

    Raises:
        ConfigError: no member.
    """

    def __init__(
        self,
        backbone: Backbone,
        members: Sequence[Member],
        *,
        reduce: Reduce = lambda tensor: None,
        worker: int = 0,
        num_workers: int = 1,
        precision: Precision = "auto",
    ) -> None:
        if not members:
            raise ConfigError("a cohort has one member or more, and none is given")
        self.backbone = backbone
        self.members = list(members)
        self.trunk = backbone.trunk
        self.device = next(backbone.trunk.model.parameters()).device
        self._reduce = reduce
        self._worker, self._num_workers = worker, num_workers
        self._bf16 = precision == "bf16" or (precision == "auto" and self.device.type == "cuda")

    def step(self, batch: Batch) -> Tensor:
        """Train every member on one batch; returns each one's mean loss over the global batch, shape (K,)."""
        batch = batch.to(self.device)
        self._training(True)
        rows = len(batch.labels)
        for member in self.members:
            mine = slice(self._worker * rows, (self._worker + 1) * rows)
            member.draw_drop_path(self.trunk, mine, rows * self._num_workers)
        losses_K = torch.stack(
            [
                (member.loss(logits, batch.labels) * batch.weight).sum()
                for member, logits in zip(self.members, self._logits(batch.images), strict=True)
            ]
        )
        torch.autograd.backward(losses_K.sum())
        mean_K = self._reduce_gradients(losses_K.detach(), batch.weight.sum())
        for member in self.members:
            member.update()
        return mean_K

    def train_epoch(self, batches: Iterable[Batch], on_step: Callable[[int], None] = lambda step: None) -> list[float]:
        """Train on every batch; returns each member's mean loss. A loss that is not finite shows here as it is."""
        total_K = torch.zeros(len(self.members), device=self.device)
        num_steps = 0
        for batch in batches:
            total_K += self.step(batch)
            num_steps += 1
            on_step(num_steps)
        return [float(loss) for loss in total_K / max(1, num_steps)]

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> list[Score]:
        """Score every member, exactly, whatever the number of workers: padding is masked, sums are reduced."""
        self._training(False)
        sums_K2 = torch.zeros(len(self.members), 2, device=self.device, dtype=torch.float64)
        count = torch.zeros(1, device=self.device, dtype=torch.float64)
        for batch in batches:
            batch = batch.to(self.device)
            sums_K2 += torch.stack([_tally(logits, batch) for logits in self._logits(batch.images)])
            count += batch.weight.sum()
        everything = torch.cat([sums_K2.flatten(), count])
        self._reduce(everything)
        total = int(everything[-1])
        return [
            Score(loss=loss / max(1, total), accuracy=correct / max(1, total), count=total)
            for loss, correct in everything[:-1].view(-1, 2).tolist()
        ]

    @torch.no_grad()
    def predict(self, images_uint8: Tensor) -> list[Tensor]:
        """Class probabilities (B, C) of every member for images (B, 3, H, W) of its input size."""
        self._training(False)
        return [logits.softmax(dim=-1) for logits in self._logits(images_uint8.to(self.device))]

    def _logits(self, images_uint8: Tensor) -> list[Tensor]:
        preprocessing = self.backbone.preprocessing
        images = normalise(images_uint8, preprocessing.mean, preprocessing.std)
        with self._autocast():
            features = run_streams(self.trunk, self.members, images)
            logits = [member.logits(f_BF) for member, f_BF in zip(self.members, features, strict=True)]
        return [scores.float() for scores in logits]

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def _training(self, training: bool) -> None:
        """Trunks stay in eval mode always, those that train too: drop-path is the engine's, batch statistics are not
        learned, and so a result does not depend on how a batch is split over workers."""
        for member in self.members:
            member.parts.train(training)
            member.end_drop_path()

    def _reduce_gradients(self, losses_K: Tensor, count: Tensor) -> Tensor:
        """Sum gradients, losses and the count of real rows over the workers in one bucket, then divide by the count."""
        gradients = [p.grad for member in self.members for p in member.parameters() if p.grad is not None]
        bucket = torch.cat([*(gradient.flatten() for gradient in gradients), losses_K, count.view(1)])
        self._reduce(bucket)
        bucket /= bucket[-1].clone().clamp(min=1)
        parts = torch.split(bucket, [*(gradient.numel() for gradient in gradients), len(losses_K), 1])
        for gradient, mean in zip(gradients, parts, strict=False):
            gradient.copy_(mean.view_as(gradient))
        return parts[-2].clone()


def _tally(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Summed loss and number of right answers among the real rows, shape (2,)."""
    loss = (cross_entropy(logits_BC, batch.labels, reduction="none") * batch.weight).sum()
    correct = ((logits_BC.argmax(dim=-1) == batch.labels) * batch.weight).sum()
    return torch.stack([loss, correct]).double()
