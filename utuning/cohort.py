"""The cohort engine: trains a list of members on one backbone. A solo trial is a list of one.

The law: K members together have, at each step, the losses that each has alone (fp32; 1e-5). They share only frozen
computation; losses are summed, so each member's gradients come from its own rows alone. A member that raises is left
out from that step on, and the others take the step as if it had never been there; one whose loss is no longer a number
goes on among its own rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.configs import Precision
from utuning.data.prefetch import timed
from utuning.errors import ConfigError
from utuning.isolation import Isolation, describe
from utuning.member import Member
from utuning.precision import autocast
from utuning.streams import run_shared, shared_rows

Reduce = Callable[[Tensor], None]
"""Sums a flat tensor over all workers, in place."""
See = Callable[[int, Tensor, Batch], None]
"""Is shown a member's place, its logits (B, C) and their batch."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Exact means over `count` images: cross-entropy in nats, and top-1 accuracy in [0, 1]."""

    loss: float
    accuracy: float
    count: int


@dataclass
class Sharing:
    """What a cohort spared: frozen blocks below the members' first tuned ones, each counted once for every image.

    Attributes:
        run: blocks that were run for all members together.
        alone: blocks that the members would have run one by one, without cached states.
    """

    run: int = 0
    alone: int = 0

    def add(self, run: int, alone: Sequence[int], num_images: int) -> None:
        """Count a batch: blocks run together, and the frozen ones of each member."""
        self.run += run * num_images
        self.alone += sum(alone) * num_images


class Cohort:
    """Members that train together, step by step, on the batches of one stream.

    Args:
        backbone: the frozen backbone, on the device that the cohort uses.
        members: who trains.
        reduce: sums a tensor over the workers; the default is one worker alone.
        worker: this worker's number, of `num_workers`.
        precision: `auto` is bf16 autocast on a GPU and fp32 on a CPU.
        num_groups: how many groups the members run in, one after another, to take less memory.

    Attributes:
        input_wait_s: the seconds that training has waited for its next batch. On a GPU, which works off steps that are
            queued, it has waited no longer than that.

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
        num_groups: int = 1,
    ) -> None:
        if not members:
            raise ConfigError("a cohort has one member or more, and none is given")
        self.backbone = backbone
        self.members = list(members)
        self.trunk = backbone.trunk
        self.device = next(backbone.trunk.model.parameters()).device
        self._reduce = reduce
        self._worker, self._num_workers = worker, num_workers
        self.isolation = Isolation(len(self.members), num_groups)
        self._agreed = list(self._all())  # who lives, as far as all workers know
        self.sharing = Sharing()
        self.input_wait_s = 0.0
        self._autocast = partial(autocast, self.device, precision)

    @property
    def failures(self) -> Mapping[int, str]:
        """Why members failed, by their places; they are left out."""
        return self.isolation.failures

    def step(self, batch: Batch) -> Tensor:
        """Train every member on one batch; returns each one's mean loss over the global batch, shape (K,).

        A member that raises has failed: its loss is NaN. Where memory runs out, members run in smaller groups.
        """
        batch = batch.to(self.device)
        self._training(True)
        self._draw_drop_path(len(batch.labels))
        losses_K = torch.full((len(self.members),), torch.nan, device=self.device)
        count = batch.weight.sum()
        # One worker knows the count of the whole batch; several divide once they have summed theirs.
        scale = 1 / count.clamp(min=1) if self._num_workers == 1 else torch.ones_like(count)

        def work(places: Sequence[int]) -> None:
            losses_G = self._losses(places, batch)
            torch.autograd.backward(losses_G.sum(), scale)
            losses_K[list(places)] = losses_G.detach()

        self.isolation.run(work, self._drop_gradients)
        mean_K = losses_K / count.clamp(min=1) if self._num_workers == 1 else self._reduce_all(losses_K, count)
        for place in self._living():
            self._update(place)
        if self.failures:
            mean_K[list(self.failures)] = torch.nan
        return mean_K

    def train_epoch(self, batches: Iterable[Batch], on_step: Callable[[int], None] = lambda step: None) -> list[float]:
        """Train on every batch; returns each member's mean loss. A loss that is not finite shows here as it is."""
        total_K = torch.zeros(len(self.members), device=self.device)
        num_steps = 0
        for batch in timed(batches, self._add_wait):
            total_K += self.step(batch)
            num_steps += 1
            on_step(num_steps)
        if self._num_workers > 1:
            self._agree()
        return [float(loss) for loss in total_K / max(1, num_steps)]

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch], see: See = lambda place, logits, batch: None) -> list[Score]:
        """Score every member, exactly, whatever the number of workers: padding is masked, sums are reduced.

        A member that failed, on any worker, scores NaN. `see` is shown what this worker's members answer.
        """
        self._training(False)
        sums_K2 = torch.zeros(len(self.members), 2, device=self.device, dtype=torch.float64)
        count = torch.zeros(1, device=self.device, dtype=torch.float64)
        for batch in batches:
            batch = batch.to(self.device)
            for place, logits in self._answers(batch).items():
                sums_K2[place] += _tally(logits, batch)
                see(place, logits, batch)
            count += batch.weight.sum()
        sums_K2[list(self.failures)] = torch.nan
        everything = torch.cat([sums_K2.flatten(), count])
        self._reduce(everything)
        total = int(everything[-1])
        return [
            Score(loss=loss / max(1, total), accuracy=correct / max(1, total), count=total)
            for loss, correct in everything[:-1].view(-1, 2).tolist()
        ]

    def predict(self, images_uint8: Tensor) -> list[Tensor]:
        """Class probabilities (B, C) of every member for images (B, 3, H, W) of its input size."""
        return [logits.softmax(dim=-1) for logits in self.scores(images_uint8)]

    def scores(self, images_uint8: Tensor) -> list[Tensor]:
        """Logits (B, C) of every member for images (B, 3, H, W) of its input size."""
        labels = torch.zeros(len(images_uint8), dtype=torch.int64)
        return self.scores_of(Batch(images=images_uint8, labels=labels, weight=labels.float(), index=labels))

    @torch.no_grad()
    def scores_of(self, batch: Batch) -> list[Tensor]:
        """Logits (B, C) of every member for a batch, some of whose states may be known."""
        self._training(False)
        return self._logits(self._all(), batch.to(self.device))

    def _answers(self, batch: Batch) -> dict[int, Tensor]:
        """Logits of all who live, by their places; who answered in an attempt that failed answers once all the same."""
        answers: dict[int, Tensor] = {}

        def work(places: Sequence[int]) -> None:
            answers.update(zip(places, self._logits(places, batch), strict=True))

        self.isolation.run(work, lambda places: None)
        return {place: answers[place] for place in self._living()}

    def _update(self, place: int) -> None:
        """One optimiser's step; one that raises, be it for want of memory, stands between two steps: it has failed."""
        try:
            self.members[place].update()
        except Exception as error:
            self._drop_gradients([place])
            self.isolation.fail(place, describe(error))

    def _losses(self, places: Sequence[int], batch: Batch) -> Tensor:
        """Summed losses of some members over a batch's real rows."""
        losses = [
            (self.members[place].loss(logits, batch.labels) * batch.weight).sum()
            for place, logits in zip(places, self._logits(places, batch), strict=True)
        ]
        return torch.stack(losses)

    def _logits(self, places: Sequence[int], batch: Batch) -> list[Tensor]:
        members = [self.members[place] for place in places]
        images = None if batch.images is None else self.backbone.normalise(batch.images)
        with self._autocast():
            shared = shared_rows(self.trunk, members, images, known=batch.states, wanted=batch.wanted)
            features = run_shared(self.trunk, members, shared)
            logits = [member.logits(f_BF) for member, f_BF in zip(members, features, strict=True)]
        batch.remember(shared.found)
        self.sharing.add(shared.num_blocks_run, [self._frozen_blocks(member) for member in members], len(batch.labels))
        return [scores.float() for scores in logits]

    def _frozen_blocks(self, member: Member) -> int:
        return len(self.trunk.blocks) if member.first_depth is None else member.first_depth

    def _add_wait(self, seconds: float) -> None:
        self.input_wait_s += seconds

    def _training(self, training: bool) -> None:
        """Trunks stay in eval mode always, those that train too: drop-path is the engine's, batch statistics are not
        learned, and so a result does not depend on how a batch is split over workers."""
        for member in self.members:
            member.parts.train(training)
            member.end_drop_path()

    def _draw_drop_path(self, num_rows: int) -> None:
        mine = slice(self._worker * num_rows, (self._worker + 1) * num_rows)
        for member in self.members:
            member.draw_drop_path(self.trunk, mine, num_rows * self._num_workers)

    def _all(self) -> Sequence[int]:
        return range(len(self.members))

    def _living(self) -> list[int]:
        return [place for place in self._all() if place not in self.failures]

    def _drop_gradients(self, places: Sequence[int]) -> None:
        for place in places:
            self.members[place].optimiser.zero_grad(set_to_none=True)

    def _reduce_all(self, losses_K: Tensor, count: Tensor) -> Tensor:
        """Sum gradients, losses and the count of real rows over the workers in one bucket, then divide by the count.

        Who failed on one worker fails on all: its mark is summed too. Returns the mean losses, (K,).
        """
        parameters = [p for place in self._agreed for p in self.members[place].parameters()]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        bucket = torch.cat([*(g.flatten() for g in gradients), losses_K, self._failed_K(), count.view(1)])
        self._reduce(bucket)
        bucket /= bucket[-1].clone().clamp(min=1)
        *means, mean_K, failed_K, _ = torch.split(bucket, [*(g.numel() for g in gradients), *[len(losses_K)] * 2, 1])
        for parameter, mean in zip(parameters, means, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(mean.view_as(parameter))
        self._fail_everywhere(failed_K)
        return mean_K

    def _agree(self) -> None:
        """Tell the other workers who has failed since the last step's gradients were summed."""
        failed_K = self._failed_K()
        self._reduce(failed_K)
        self._fail_everywhere(failed_K)

    def _failed_K(self) -> Tensor:
        return torch.tensor([float(place in self.failures) for place in self._all()], device=self.device)

    def _fail_everywhere(self, failed_K: Tensor) -> None:
        for place in (failed_K > 0).nonzero().flatten().tolist():
            self._drop_gradients([place])
            self.isolation.fail(place, "it failed on another worker")
        self._agreed = self._living()


def _tally(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Summed loss and number of right answers among the real rows, shape (2,)."""
    loss = (cross_entropy(logits_BC, batch.labels, reduction="none") * batch.weight).sum()
    correct = ((logits_BC.argmax(dim=-1) == batch.labels) * batch.weight).sum()
    return torch.stack([loss, correct]).double()
