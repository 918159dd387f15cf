"""Memory that really runs out: a process that may have only so much of it trains its members in smaller groups."""

import multiprocessing
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.tools import adapter, batch, tiny_backbone, train
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.costs import saved_bytes
from utuning.data.loader import Batch
from utuning.member import Member

TUNERS = {
    "adapters": (adapter("attn", "mlp", "block"),),
    "more adapters": (adapter("attn", "mlp", depths="last:3"),),
    "linear": (),
    "prompts": (TunerConfig(method="vpt_deep", settings={"num_tokens": 2}),),
    "unipt": (TunerConfig(method="unipt"),),
    "ladder": (TunerConfig(method="ladder"),),
    "full": (TunerConfig(method="full"),),
}
NUM_IMAGES, NUM_STEPS = 192, 2
Outcome = tuple[list[list[int]], list[int], list[list[float]]]


def members(of: Backbone, names: Sequence[str]) -> list[Member]:
    return [Member(of, num_classes=5, config=train(), tuners=TUNERS[name], steps_per_epoch=2) for name in names]


def images(step: int) -> Batch:
    return batch(size=NUM_IMAGES, seed=step)


@contextmanager
def room_for(num_bytes: float) -> Iterator[None]:
    """Let this process have only so many bytes more."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("VmData:")[2].split()[0]) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + int(num_bytes), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def trained(names: Sequence[str], room: float) -> Outcome:
    """A few steps of these members within so many bytes: their groups, who failed, and the losses."""
    torch.set_num_threads(1)
    of = tiny_backbone()
    Cohort(of, members(of, names)).step(batch())  # what is allocated once, is
    batches, cohort = [images(step) for step in range(NUM_STEPS)], Cohort(of, members(of, names))
    with room_for(room):
        losses = [cohort.step(each).tolist() for each in batches]
    return cohort.isolation.groups, sorted(cohort.failures), losses


def in_a_process(names: Sequence[str], room: float) -> Outcome:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(trained, names, room).result()


def need(names: Sequence[str]) -> int:
    """Bytes that a step of these members keeps for its backward pass."""
    of = tiny_backbone()
    return saved_bytes(Cohort(of, members(of, names)), images(0))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' account of a process")
@pytest.mark.parametrize("names", [tuple(TUNERS), ("unipt", "ladder", "unipt", "ladder", "linear")], ids=len)
def test_a_cohort_that_runs_out_of_memory_goes_on_in_groups_and_loses_the_same(names: Sequence[str]) -> None:
    groups, failed, losses = in_a_process(names, 0.6 * need(names))
    assert len(groups) > 1 and sorted(place for group in groups for place in group) == [*range(len(names))]
    assert not failed
    of = tiny_backbone()
    plenty = Cohort(of, members(of, names))
    expected = [plenty.step(images(step)) for step in range(NUM_STEPS)]
    torch.testing.assert_close(torch.tensor(losses), torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' account of a process")
def test_who_does_not_fit_alone_fails_and_the_others_go_on() -> None:
    groups, failed, losses = in_a_process(("linear", "adapters"), 0.3 * need(["adapters"]))
    assert (groups, failed) == ([[0]], [1])
    assert torch.tensor(losses).isfinite().tolist() == [[True, False]] * NUM_STEPS
    assert in_a_process(("adapters",), 0.3 * need(["adapters"]))[:2] == ([], [0])
