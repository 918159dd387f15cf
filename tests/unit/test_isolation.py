"""Members fail alone: who raises, runs out of memory or diverges changes nobody else's numbers."""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from threading import Barrier

import pytest
import torch
from torch import Tensor

from tests.tools import adapter, batch, rows_of, tiny_backbone, train
from utuning.backbone import Backbone
from utuning.cohort import Cohort, Reduce
from utuning.configs import TunerConfig
from utuning.isolation import Isolation, is_out_of_memory
from utuning.member import Member

TUNERS = {
    "adapters": (adapter("attn", "mlp"),),
    "linear": (),
    "lora": (TunerConfig(method="lora", depths="last:2"),),
    "prompts": (TunerConfig(method="vpt_deep", settings={"num_tokens": 2}),),
    "full": (TunerConfig(method="full"),),
}
OTHERS = tuple(TUNERS)
PLACE = 1
NUM_STEPS = 3
Fault = Callable[[Tensor], Tensor]
Break = Callable[[Member, Fault, pytest.MonkeyPatch], None]


class Backward(torch.autograd.Function):
    """The identity, whose backward pass raises."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, error: type[Exception]) -> Tensor:
        ctx.error = error  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[None, None]:
        raise ctx.error("it broke")  # type: ignore[attr-defined]


def broken(x: Tensor) -> Tensor:
    raise RuntimeError("it broke\nand this is why")


def broken_backward(x: Tensor) -> Tensor:
    result: Tensor = Backward.apply(x, RuntimeError)
    return result


def from_step(who: Member, step: int, fault: Fault) -> Fault:
    return lambda x: fault(x) if who.num_steps_done >= step else x


def break_module(module: torch.nn.Module, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *args: fault(forward(*args)))


def break_tuner(who: Member, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    break_module(who.placed[0].tuner, fault, monkeypatch)


def break_head(who: Member, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    break_module(who.parts["head"], fault, monkeypatch)


def break_loss(who: Member, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = who.loss
    monkeypatch.setattr(who, "loss", lambda scores_BC, labels_B: fault(loss(scores_BC, labels_B)))


FAULTS: dict[str, tuple[Break, Fault]] = {
    "tuner": (break_tuner, broken),
    "head": (break_head, broken),
    "loss": (break_loss, broken),
    "the tuner's backward pass": (break_tuner, broken_backward),
    "the loss's backward pass": (break_loss, broken_backward),
}


def member(of: Backbone, name: str, seed: int = 0) -> Member:
    config = train(seed=seed, drop_path=0.2)
    return Member(of, num_classes=5, config=config, tuners=TUNERS[name], steps_per_epoch=2)


def members(of: Backbone) -> list[Member]:
    return [member(of, name) for name in OTHERS]


def among(others: Sequence[Member], who: Member) -> list[Member]:
    return [*others[:PLACE], who, *others[PLACE:]]


def steps(cohort: Cohort, first: int = 0, last: int = NUM_STEPS) -> Tensor:
    """Losses of some steps, (K, steps)."""
    return torch.stack([cohort.step(batch(seed=step, padding=1)) for step in range(first, last)], dim=1)


@cache
def undisturbed() -> tuple[Cohort, Tensor]:
    """The members without anybody else: their cohort after its steps, and its losses."""
    of = tiny_backbone()
    cohort = Cohort(of, members(of))
    return cohort, steps(cohort)


def without(values_K: Tensor, place: int = PLACE) -> Tensor:
    return torch.cat([values_K[:place], values_K[place + 1 :]])


def same(some: Sequence[Member], others: Sequence[Member]) -> bool:
    return all(equal_tensors(a.tensors(), b.tensors()) for a, b in zip(some, others, strict=True))


def equal_tensors(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def copied(who: Member) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in who.tensors().items()}


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("name", FAULTS)
def test_who_raises_is_left_out_and_changes_nobody_else(
    backbone: Backbone, name: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, who = members(backbone), member(backbone, "adapters", seed=5)
    break_it, fault = FAULTS[name]
    break_it(who, from_step(who, step, fault), monkeypatch)
    cohort = Cohort(backbone, among(others, who))
    before_K = steps(cohort, last=step) if step else torch.zeros(len(cohort.members), 0)
    tensors = copied(who)
    losses_K = torch.cat([before_K, steps(cohort, first=step)], dim=1)
    assert cohort.failures == {PLACE: "RuntimeError: it broke"}
    assert losses_K[PLACE, :step].isfinite().all() and losses_K[PLACE, step:].isnan().all()
    assert equal_tensors(who.tensors(), tensors) and who.num_steps_done == step
    assert torch.equal(without(losses_K), undisturbed()[1])
    assert same(others, undisturbed()[0].members)
    assert not any(module._forward_hooks for module in backbone.trunk.model.modules())


def test_several_that_raise_fail_each_for_its_own_reason(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    others = members(backbone)
    first, last = member(backbone, "adapters", seed=5), member(backbone, "prompts", seed=6)
    break_loss(first, broken, monkeypatch)
    monkeypatch.setattr(last, "loss", lambda scores_BC, labels_B: 1 / 0)
    cohort = Cohort(backbone, [first, *others, last])
    losses_K = steps(cohort)
    reasons = ["RuntimeError: it broke", "ZeroDivisionError: division by zero"]
    assert cohort.failures == dict(zip([0, len(others) + 1], reasons, strict=True))
    assert losses_K[[0, -1]].isnan().all()
    assert torch.equal(losses_K[1:-1], undisturbed()[1])
    assert same(others, undisturbed()[0].members)


@pytest.mark.parametrize("name", TUNERS)
def test_who_is_no_longer_a_number_is_so_alone(backbone: Backbone, name: str) -> None:
    others, who = members(backbone), member(backbone, name, seed=5)
    with torch.no_grad():
        who.parameters()[0].view(-1)[0] = torch.nan
    cohort = Cohort(backbone, among(others, who))
    losses_K = steps(cohort)
    assert losses_K[PLACE].isnan().all() and not cohort.failures
    assert torch.equal(without(losses_K), undisturbed()[1])
    assert same(others, undisturbed()[0].members)


def test_an_epoch_in_which_a_member_failed_has_no_loss(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    others, who = members(backbone), member(backbone, "lora", seed=5)
    break_loss(who, from_step(who, 1, broken), monkeypatch)
    losses = Cohort(backbone, among(others, who)).train_epoch([batch(seed=0), batch(seed=1)])
    finite = torch.tensor(losses).isfinite().tolist()
    assert finite == [place != PLACE for place in range(len(losses))]


def test_who_failed_scores_no_number_and_the_others_as_without_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, who = members(backbone), member(backbone, "adapters", seed=5)
    break_tuner(who, broken, monkeypatch)
    cohort = Cohort(backbone, among(others, who))
    steps(cohort)
    batches = [batch(seed=7), batch(seed=8, padding=3)]
    scores = cohort.evaluate(batches)
    failed = scores.pop(PLACE)
    assert scores == undisturbed()[0].evaluate(batches)
    assert failed.loss != failed.loss and failed.accuracy != failed.accuracy and failed.count == 9


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_who_raises_in_evaluation_alone_leaves_each_others_images_counted_once(
    backbone: Backbone, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    others, who = members(backbone), member(backbone, "adapters", seed=5)
    cohort = Cohort(backbone, among(others, who))
    steps(cohort)

    def fault(x: Tensor) -> Tensor:
        raise error("it broke")

    break_head(who, fault, monkeypatch)
    seen: list[tuple[int, int]] = []
    batches = [batch(seed=7), batch(seed=8, padding=3)]
    scores = cohort.evaluate(batches, lambda place, logits, of: seen.append((place, len(of.labels))))
    failed = scores.pop(PLACE)
    assert failed.loss != failed.loss and cohort.failures == {PLACE: f"{error.__name__}: it broke"}
    for score, expected in zip(scores, undisturbed()[0].evaluate(batches), strict=True):
        assert (score.accuracy, score.count) == (expected.accuracy, expected.count)
        assert score.loss == pytest.approx(expected.loss, abs=1e-6)
    assert sorted(seen) == sorted((place, 6) for place in range(len(others) + 1) if place != PLACE for _ in batches)


def broken_update() -> None:
    raise MemoryError("no room for its moments")


@pytest.mark.parametrize("step", [0, 2])
def test_who_raises_in_its_update_has_failed_and_changes_nobody_else(
    backbone: Backbone, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, who = members(backbone), member(backbone, "adapters", seed=5)
    cohort = Cohort(backbone, among(others, who))
    before_K = steps(cohort, last=step) if step else torch.zeros(len(cohort.members), 0)
    monkeypatch.setattr(who, "update", broken_update)
    losses_K = torch.cat([before_K, steps(cohort, first=step)], dim=1)
    assert cohort.failures == {PLACE: "MemoryError: no room for its moments"}
    assert losses_K[PLACE, :step].isfinite().all() and losses_K[PLACE, step:].isnan().all()
    assert torch.equal(without(losses_K), undisturbed()[1])
    assert same(others, undisturbed()[0].members)


def test_when_all_have_failed_steps_and_scores_are_no_numbers(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = member(backbone, "linear")
    break_loss(who, broken, monkeypatch)
    cohort = Cohort(backbone, [who])
    assert steps(cohort).isnan().all() and cohort.failures == {0: "RuntimeError: it broke"}
    (score,) = cohort.evaluate([batch()])
    assert score.loss != score.loss and score.count == 6


# Memory


class Memory:
    """Room for so many members together: more of them run out of it, forwards or, in the first member, backwards."""

    def __init__(self, cohort: Cohort, room: int, *, backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts: list[list[int]] = []
        self._losses, self._logits = cohort._losses, cohort.members[0].logits
        self._room, self._backward = room, backward
        monkeypatch.setattr(cohort, "_losses", self.losses)
        monkeypatch.setattr(cohort.members[0], "logits", self.logits)

    def losses(self, places: Sequence[int], *args: object) -> Tensor:
        self.attempts.append(list(places))
        losses_G = self._losses(places, *args)  # type: ignore[arg-type]
        if self.is_short() and not self._backward:
            raise MemoryError
        return losses_G

    def logits(self, features_BF: Tensor) -> Tensor:
        """Of the first member: the others' heads have gradients by the time its tuners are to get theirs."""
        if self.is_short() and self._backward:
            features_BF = Backward.apply(features_BF, MemoryError)
        return self._logits(features_BF)

    def is_short(self) -> bool:
        return len(self.attempts[-1]) > self._room


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("room", [1, 2, 4])
def test_members_that_do_not_fit_together_run_in_groups_and_lose_the_same(
    backbone: Backbone, room: int, backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = members(backbone)
    cohort = Cohort(backbone, others)
    memory = Memory(cohort, room, backward=backward, monkeypatch=monkeypatch)
    losses_K = steps(cohort, last=1)
    assert memory.attempts[0] == [0, 1, 2, 3, 4]
    groups = [list(group) for group in cohort.isolation.groups]
    assert all(len(group) <= room for group in groups if 0 in group or not backward)
    assert sorted(chain(*groups)) == [0, 1, 2, 3, 4]
    memory.attempts.clear()
    losses_K = torch.cat([losses_K, steps(cohort, first=1)], dim=1)
    assert memory.attempts == groups * 2 and cohort.isolation.groups == groups
    assert not cohort.failures
    torch.testing.assert_close(losses_K, undisturbed()[1], rtol=0, atol=1e-6)
    for mine, theirs in zip(others, undisturbed()[0].members, strict=True):
        for name, value in theirs.tensors().items():
            torch.testing.assert_close(mine.tensors()[name], value, rtol=0, atol=1e-4)  # AdamW divides by small numbers


@pytest.mark.parametrize("num_groups", [2, 5])
def test_groups_that_were_asked_for_lose_the_same(backbone: Backbone, num_groups: int) -> None:
    cohort = Cohort(backbone, members(backbone), num_groups=num_groups)
    losses_K = steps(cohort)
    assert len(cohort.isolation.groups) == num_groups
    torch.testing.assert_close(losses_K, undisturbed()[1], rtol=0, atol=1e-6)


def test_who_does_not_fit_alone_fails_alone(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    others, who = members(backbone), member(backbone, "full", seed=5)

    def too_much(x: Tensor) -> Tensor:
        return torch.empty(2**50, dtype=torch.uint8)

    break_head(who, too_much, monkeypatch)
    cohort = Cohort(backbone, among(others, who))
    losses_K = steps(cohort)
    assert list(cohort.failures) == [PLACE] and "can't allocate memory" in cohort.failures[PLACE]
    assert losses_K[PLACE].isnan().all()
    torch.testing.assert_close(without(losses_K), undisturbed()[1], rtol=0, atol=1e-6)


def test_what_a_failed_attempt_computed_is_let_go_before_the_next() -> None:
    computed: list[weakref.ref[Tensor]] = []
    still_there: list[int] = []

    def work(places: Sequence[int]) -> None:
        still_there.append(sum(each() is not None for each in computed))
        activations = torch.zeros(3)
        computed.append(weakref.ref(activations))
        if len(places) > 2:
            raise MemoryError
        if 1 in places:
            raise RuntimeError

    isolation = Isolation(8)
    isolation.run(work, lambda places: None)
    assert list(isolation.failures) == [1] and len(still_there) > 8
    assert still_there == [0] * len(still_there)


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),  # oneDNN, where its scratch memory does not fit
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out(error: Exception, says_so: bool) -> None:
    assert is_out_of_memory(error) == says_so


# Nobody's fault


def test_an_error_that_nobody_has_alone_is_raised(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort(backbone, members(backbone))
    losses = cohort._losses

    def only_alone(places: Sequence[int], *args: object) -> Tensor:
        if len(places) > 1:
            raise ValueError("these do not go together")
        return losses(places, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(cohort, "_losses", only_alone)
    with pytest.raises(ValueError, match="these do not go together"):
        cohort.step(batch())
    assert not cohort.failures
    assert all(p.grad is None for who in cohort.members for p in who.parameters())
    assert [who.num_steps_done for who in cohort.members] == [0] * len(cohort.members)


def test_an_interrupt_is_nobodys_failure() -> None:
    def work(places: Sequence[int]) -> None:
        raise KeyboardInterrupt

    isolation = Isolation(2)
    with pytest.raises(KeyboardInterrupt):
        isolation.run(work, lambda places: None)
    assert not isolation.failures


# Two workers


@cache
def backbone_of(worker: int) -> Backbone:
    return tiny_backbone()


class Workers:
    """Two workers, each a thread with a backbone of its own, whose buckets are summed for both."""

    def __init__(self) -> None:
        self.buckets: list[list[Tensor]] = [[], []]
        self._both_here = Barrier(2, timeout=300)

    def reduce(self, worker: int) -> Reduce:
        def add_the_other(tensor: Tensor) -> None:
            self.buckets[worker].append(tensor.clone())
            self._both_here.wait()
            tensor += self.buckets[1 - worker][-1]
            self._both_here.wait()

        return add_the_other

    def run(self, build: Callable[[int, Backbone], list[Member]]) -> list[tuple[Cohort, Tensor]]:
        """Three steps of both, each on its half of every batch: their cohorts and losses."""

        def cohort(worker: int) -> Cohort:
            of = backbone_of(worker)
            return Cohort(of, build(worker, of), reduce=self.reduce(worker), worker=worker, num_workers=2)

        def losses(cohort: Cohort, rows: slice) -> Tensor:
            batches = [rows_of(batch(seed=step, padding=1), rows) for step in range(NUM_STEPS)]
            return torch.stack([cohort.step(each) for each in batches], dim=1)

        both = [cohort(worker) for worker in range(2)]
        with ThreadPoolExecutor(2) as pool:
            return list(zip(both, pool.map(losses, both, (slice(0, 3), slice(3, 6))), strict=True))


@cache
def undisturbed_workers() -> list[tuple[Cohort, Tensor]]:
    return Workers().run(lambda worker, of: members(of))


@pytest.mark.parametrize("name", ["tuner", "the loss's backward pass"])
@pytest.mark.parametrize("where", [0, 1])
def test_who_fails_on_one_worker_has_failed_on_both(where: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(worker: int, of: Backbone) -> list[Member]:
        who = member(of, "adapters", seed=5)
        break_it, fault = FAULTS[name]
        if worker == where:
            break_it(who, from_step(who, 1, fault), monkeypatch)
        return among(members(of), who)

    workers = Workers()
    both = workers.run(build)
    reasons = ["it failed on another worker"] * 2
    reasons[where] = "RuntimeError: it broke"
    assert [dict(cohort.failures) for cohort, _ in both] == [{PLACE: reason} for reason in reasons]
    assert [len(bucket) for bucket in workers.buckets[0]] == [len(bucket) for bucket in workers.buckets[1]]
    assert len(workers.buckets[0][1]) > len(workers.buckets[0][2])
    for (cohort, losses_K), (alone, losses_alone_K) in zip(both, undisturbed_workers(), strict=True):
        assert losses_K[PLACE, :1].isfinite().all() and losses_K[PLACE, 1:].isnan().all()
        assert torch.equal(without(losses_K), losses_alone_K)
        others = [who for place, who in enumerate(cohort.members) if place != PLACE]
        assert same(others, alone.members)


@pytest.mark.parametrize("where", [0, 1])
def test_who_fails_in_its_update_on_one_worker_has_failed_on_both_after_the_epoch(
    where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when that was its last step, and the other worker had updated it."""
    workers = Workers()

    def trained(worker: int, failing_step: int) -> tuple[Cohort, list[float]]:
        of = backbone_of(worker)
        who = member(of, "adapters", seed=5)
        if worker == where:
            update = who.update
            monkeypatch.setattr(
                who, "update", lambda: broken_update() if who.num_steps_done == failing_step else update()
            )
        cohort = Cohort(of, among(members(of), who), reduce=workers.reduce(worker), worker=worker, num_workers=2)
        rows = slice(3 * worker, 3 * worker + 3)
        return cohort, cohort.train_epoch(rows_of(batch(seed=step, padding=1), rows) for step in range(NUM_STEPS))

    for failing_step in (0, NUM_STEPS - 1):
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(trained, range(2), [failing_step] * 2))
        for (cohort, losses), (alone, losses_alone_K) in zip(both, undisturbed_workers(), strict=True):
            assert list(cohort.failures) == [PLACE]
            others = [loss for place, loss in enumerate(losses) if place != PLACE]
            assert others == pytest.approx(losses_alone_K.mean(dim=1).tolist(), abs=1e-6)
            assert same([who for place, who in enumerate(cohort.members) if place != PLACE], alone.members)


def test_all_gradients_of_a_step_are_summed_in_one_call() -> None:
    workers = Workers()
    workers.run(lambda worker, of: members(of))
    assert [len(buckets) for buckets in workers.buckets] == [NUM_STEPS, NUM_STEPS]


def test_memory_that_runs_out_on_one_worker_changes_nothing_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(worker: int, of: Backbone) -> list[Member]:
        several = members(of)
        if worker == 1:
            break_loss(several[0], hungry, monkeypatch)
        return several

    def hungry(x: Tensor) -> Tensor:
        """Memory for the first attempt of the first step is missing."""
        attempts.append(1)
        if len(attempts) == 1:
            raise MemoryError
        return x

    attempts: list[int] = []
    both = Workers().run(build)
    assert [cohort.isolation.groups for cohort, _ in both] == [[[0, 1, 2, 3, 4]], [[0, 1, 2], [3, 4]]]
    for (cohort, losses_K), (_, losses_alone_K) in zip(both, undisturbed_workers(), strict=True):
        assert not cohort.failures
        torch.testing.assert_close(losses_K, losses_alone_K, rtol=0, atol=1e-6)
    assert same(both[0][0].members, both[1][0].members)


def test_who_is_no_longer_a_number_on_one_worker_is_so_on_both() -> None:
    def build(worker: int, of: Backbone) -> list[Member]:
        who = member(of, "adapters", seed=5)
        if worker == 1:
            with torch.no_grad():
                who.parameters()[0].view(-1)[0] = torch.nan
        return among(members(of), who)

    for (cohort, losses_K), (_, losses_alone_K) in zip(Workers().run(build), undisturbed_workers(), strict=True):
        assert losses_K[PLACE].isnan().all() and not cohort.failures
        assert torch.equal(without(losses_K), losses_alone_K)
