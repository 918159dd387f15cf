"""What members cost, counted by running throwaway ones on an image or two: FLOPs, and bytes kept for the backward pass.

On shapes alone (`Backbone.shapes`) nothing is computed, and the same is counted: the operations are those of a CPU.

A member's work is either its own, or the frozen network's below the place where it leaves the shared stream. Frozen
work is a chain: what several members share of it costs as much as what the furthest of them reads. So the costs of
members add up, but for what one does to others' rows in the last block, or backward where rows run joined: a few per
cent.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TrialConfig
from utuning.errors import ConfigError
from utuning.member import Member
from utuning.prefix import state_shapes
from utuning.shared_rows import SharedRows
from utuning.streams import states_read

COPIES_A_PARAMETER = 4
"""A trained weight, its gradient, and AdamW's two moments."""
Shape = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What grows with a batch: so much for a step, and so much for each image."""

    fixed: float = 0.0
    per_image: float = 0.0

    def at(self, num_images: float) -> float:
        """The value for so many images."""
        return self.fixed + self.per_image * num_images

    def scaled(self, fixed: float, per_image: float) -> "Line":
        """The line with both parts multiplied."""
        return Line(fixed=self.fixed * fixed, per_image=self.per_image * per_image)

    @classmethod
    def through(cls, values: Mapping[int, float]) -> "Line":
        """The line through two values, by their numbers of images; neither of its parts is negative."""
        (few, low), (many, high) = sorted(values.items())
        per_image = min(max(0.0, (high - low) / (many - few)), high / many)
        return cls(fixed=max(0.0, high - per_image * many), per_image=per_image)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one trial's member costs.

    Attributes:
        step: FLOPs of a training step, its own.
        evaluate: FLOPs of an evaluation, its own.
        shared: FLOPs an image of the frozen work before its own, which it can share.
        reads: the states that it reads, see `states_read`.
        num_shared_blocks: how many blocks lie before its first tuned depth.
        kept_bytes: what a step keeps an image for the backward pass, beside others, where rows are joined.
        member_bytes: its weights, gradients and optimiser's state.
    """

    step: Line
    evaluate: Line
    shared: float
    reads: frozenset[int]
    num_shared_blocks: int
    kept_bytes: float
    member_bytes: int


def step_flops(backbone: Backbone, members: Sequence[Member], *, num_images: int = 1, cached: bool = False) -> int:
    """FLOPs of one training step of members together, which changes them; `cached` if the states they read are known.

    Raises:
        ConfigError: a member that cannot take a step.
    """
    return _count_step(Cohort(backbone, members), _batch_for(backbone, members, num_images, cached))[0]


def eval_flops(backbone: Backbone, members: Sequence[Member], *, num_images: int = 1, cached: bool = False) -> int:
    """FLOPs of one evaluation of members together; `cached` if the states they read are known."""
    cohort, batch = Cohort(backbone, members), _batch_for(backbone, members, num_images, cached)
    with _counter() as counter:
        cohort.scores_of(batch)
    return int(counter.get_total_flops())


def saved_bytes(cohort: Cohort, batch: Batch) -> int:
    """Bytes that one step of a cohort keeps for its backward pass, each storage once, weights not counted."""
    trained = [p for member in cohort.members for p in member.parameters()]
    # By the storage's own address, as on the meta device no data have any.
    weights = {p.untyped_storage()._cdata for p in (*cohort.trunk.model.parameters(), *trained)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cohort.step(batch)
    return sum(kept.values())


def throwaway(backbone: Backbone, trials: Sequence[TrialConfig]) -> list[Member]:
    """New members of trials, to be run and thrown away: a step changes its members."""
    return [Member.from_trial(backbone, trial) for trial in trials]


def random_batch(backbone: Backbone, num_images: int, states: Mapping[int, Shape], *, images: bool) -> Batch:
    """Noise images of class 0, and noise for known states, whose shapes are given by depth."""
    size = backbone.preprocessing.img_size
    return Batch(
        images=torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8) if images else None,
        labels=torch.zeros(num_images, dtype=torch.int64),
        weight=torch.ones(num_images),
        index=torch.arange(num_images),
        states={depth: torch.randn(num_images, *shape) for depth, shape in states.items()},
    )


def trial_cost(backbone: Backbone, trial: TrialConfig) -> Cost:
    """Count what a trial costs, alone and beside its own twin: what the twin does not double, they share.

    Raises:
        ConfigError: a trial that cannot take a step.
    """
    batches = {num_images: random_batch(backbone, num_images, {}, images=True) for num_images in (1, 2)}
    alone = {n: _count_step(_cohort(backbone, [trial]), batch) for n, batch in batches.items()}
    twins = _count_step(_cohort(backbone, [trial, trial]), batches[1])
    evaluations = {n: eval_flops(backbone, throwaway(backbone, [trial]), num_images=n) for n in batches}
    shared = 2.0 * alone[1][0] - twins[0]
    member = throwaway(backbone, [trial])[0]
    num_blocks = len(backbone.trunk.blocks)
    return Cost(
        step=_without(Line.through({n: flops for n, (flops, _) in alone.items()}), shared),
        evaluate=_without(Line.through(evaluations), shared),
        shared=shared,
        reads=states_read(backbone.trunk, member),
        num_shared_blocks=num_blocks if member.first_depth is None else min(max(0, member.first_depth), num_blocks),
        kept_bytes=max(alone[1][1], twins[1] / 2),
        member_bytes=COPIES_A_PARAMETER * sum(p.numel() * p.element_size() for p in member.parameters()),
    )


def frozen_flops(backbone: Backbone) -> list[int]:
    """FLOPs of the frozen network for one image up to each state, by its depth; see `shared_rows` for states."""
    batch = random_batch(backbone, 1, {}, images=True).to(next(backbone.trunk.model.parameters()).device)
    rows, found = SharedRows(backbone.trunk, backbone.normalise(batch.pixels)), []
    with _counter() as counter:
        for depth in range(len(backbone.trunk.blocks) + 1):
            rows.entering(depth)
            found.append(counter.get_total_flops())
        rows.features()
        return [*found, counter.get_total_flops()]


def shared_flops(costs: Sequence[Cost], frozen: Sequence[int], known: Collection[int] = ()) -> float:
    """FLOPs an image of all the frozen work of members together, where the `known` states are not computed.

    It goes from each known state that somebody starts from to the furthest that is read after it.
    """
    furthest: dict[int, float] = {}
    for cost in costs:
        start = max(cost.reads) if cost.reads <= set(known) else _last_known(min(cost.reads), known)
        furthest[start] = max(furthest.get(start, 0.0), cost.shared)
    return sum(max(0.0, end - (frozen[start] if start >= 0 else 0)) for start, end in furthest.items())


def _last_known(depth: int, known: Collection[int]) -> int:
    return max((each for each in known if each <= depth), default=-1)


def _batch_for(backbone: Backbone, members: Sequence[Member], num_images: int, cached: bool) -> Batch:
    """Noise that these members can be run on."""
    if not cached:
        return random_batch(backbone, num_images, {}, images=True)
    reads = set().union(*(states_read(backbone.trunk, member) for member in members))
    shapes = state_shapes(backbone)
    return random_batch(backbone, num_images, {depth: shapes[depth] for depth in reads - {-1}}, images=-1 in reads)


def _cohort(backbone: Backbone, trials: Sequence[TrialConfig]) -> Cohort:
    return Cohort(backbone, throwaway(backbone, trials), precision=trials[0].precision)


def _count_step(cohort: Cohort, batch: Batch) -> tuple[int, int]:
    """FLOPs of a step, and the bytes that it keeps."""
    with _counter() as counter:
        kept = saved_bytes(cohort, batch)
    for reason in cohort.failures.values():
        raise ConfigError(f"a member cannot take a training step: {reason}")
    return counter.get_total_flops(), kept


@contextmanager
def _counter() -> Iterator[FlopCounterMode]:
    with _AttentionOfCPU(), FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        yield counter


class _AttentionOfCPU(TorchFunctionMode):
    """On the meta device torch would spell attention out, and count and keep what no kernel does."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and args[0].is_meta:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **kwargs)[0]
        return func(*args, **kwargs)


def _without(line: Line, per_image: float) -> Line:
    return Line(fixed=line.fixed, per_image=line.per_image - per_image)


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


# torch counts the attention kernels of GPUs, not the CPU's.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
