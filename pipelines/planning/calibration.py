"""What this machine takes, measured in a few seconds: steps of members, images of the data, a process of Ray Train."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from pipelines.planning.plan import Prepared
from pipelines.planning.waves import Crew
from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.costs import Line, random_batch, throwaway
from utuning.data.loader import Loader
from utuning.data.opening import read_first
from utuning.errors import ClusterError
from utuning.prefix import state_shapes
from utuning.streams import states_read

STEPS_BUDGET_S = 6.0
"""For the steps; images and the process take a few seconds more."""
REPEATS = 2
LEAST_IMAGES = 2
NUM_IMAGES = 32
WORKER_PROCESS = """
import time; started = time.perf_counter(); import ray.train.torch; print(time.perf_counter() - started)
import resource, timm, pyarrow.parquet, torchvision; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of a crew's step, and of its evaluation of a batch, on one worker."""

    step: Line
    evaluate: Line


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs an image of a crew's step and evaluation, and how many members it has."""

    step: float
    evaluate: float
    num_members: int


@dataclass(frozen=True, kw_only=True)
class Process:
    """Seconds that a process takes to import Ray Train, and the bytes that a worker has before its first step."""

    import_s: float
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Input:
    """Seconds an image of decoding, once, and of cropping, in every epoch."""

    decode_s: float
    crop_s: float


def time_process() -> Process:
    """Import what a worker imports, in a process of its own.

    Raises:
        ClusterError: it cannot.
    """
    done = subprocess.run([sys.executable, "-c", WORKER_PROCESS], capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(
            f"Ray Train cannot be imported: {done.stderr.strip().splitlines()[-1]}; run `utuning doctor`"
        )
    seconds, num_bytes = done.stdout.split()[-2:]
    return Process(import_s=float(seconds), num_bytes=int(num_bytes))


def time_input(ready: Prepared, threads: int) -> Input:
    """Load a few of the training images twice: the second time they are decoded already."""
    table = read_first(ready.dataset, "train", NUM_IMAGES)
    size = min(8, table.num_rows)
    loader = Loader(
        table, ready.backbone.preprocessing, global_batch_size=size, recipe=ready.space.recipe, threads=threads
    )
    first, second = (_seconds(lambda: list(loader.epoch(0))) / table.num_rows for _ in range(2))
    return Input(decode_s=max(0.0, first - second), crop_s=second)


def time_crews(
    backbone: Backbone, crews: Mapping[str, Crew], works: Mapping[str, Work], shares: Mapping[str, float], images: int
) -> dict[str, Timing]:
    """Time as many crews as the budget allows, those with the largest share of the search first.

    Their batches have at most `images` images, fewer where that takes too long. The others are estimated by FLOPs.
    """
    shapes = state_shapes(backbone)
    deadline = time.perf_counter() + STEPS_BUDGET_S
    by_share = sorted(crews, key=lambda key: -shares[key])
    # Nothing is known before the first one, so it is a small one.
    first = min(by_share, key=lambda key: (works[key].num_members, bool(crews[key].known)))
    measured = {first: _time_crew(backbone, crews[first], shapes, LEAST_IMAGES)}
    for key in by_share:
        left_s = max(0.0, deadline - time.perf_counter())
        if size := affordable(estimate(works[key], measured, works), images, left_s / 2):
            measured[key] = _time_crew(backbone, crews[key], shapes, size)
    return {key: measured.get(key) or estimate(works[key], measured, works) for key in crews}


def affordable(guess: Timing, images: int, budget_s: float) -> int:
    """The largest batch, by halves, that a crew can be timed on in a number of seconds; 0 if not even the least."""
    both = Line(
        fixed=guess.step.fixed + guess.evaluate.fixed, per_image=guess.step.per_image + guess.evaluate.per_image
    )
    while images >= LEAST_IMAGES:
        small, large = _sizes(images)
        if 2 * REPEATS * both.at(small) + REPEATS * both.at(large) <= budget_s:
            return images
        images //= 2
    return 0


def estimate(work: Work, measured: Mapping[str, Timing], works: Mapping[str, Work]) -> Timing:
    """The timing of a crew that was not measured, from the one with the nearest number of FLOPs."""
    key = min(measured, key=lambda key: abs(math.log(_ratio(work.step, works[key].step))))
    near, timing = works[key], measured[key]
    members = work.num_members / near.num_members
    return Timing(
        step=timing.step.scaled(members, _ratio(work.step, near.step)),
        evaluate=timing.evaluate.scaled(members, _ratio(work.evaluate, near.evaluate)),
    )


@contextmanager
def as_worker(backbone: Backbone, threads: int, on_gpu: bool) -> Iterator[None]:
    """Compute as a search's worker does, with its threads and on its device."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    backbone.to("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
    try:
        yield
    finally:
        backbone.to("cpu")
        torch.set_num_threads(before)


def _ratio(first: float, second: float) -> float:
    """How many times as many FLOPs; what has none counts as one."""
    return max(1.0, first) / max(1.0, second)


def _time_crew(backbone: Backbone, crew: Crew, shapes: Mapping[int, Sequence[int]], size: int) -> Timing:
    members = throwaway(backbone, crew.trials)
    needed = (min(states_read(backbone.trunk, member)) for member in members)
    images = not crew.known or min(needed) < min(crew.known)
    cohort = Cohort(backbone, members, precision=crew.trials[0].precision)
    steps: dict[int, float] = {}
    evaluations: dict[int, float] = {}
    for count in (_sizes(size)[0], *_sizes(size)):  # the first one warms up, and is forgotten
        batch = random_batch(backbone, count, {depth: shapes[depth] for depth in crew.known}, images=images)
        steps[count] = _best(partial(_step, cohort, batch))
        evaluations[count] = _best(partial(cohort.evaluate, [batch]))
    return Timing(step=Line.through(steps), evaluate=Line.through(evaluations))


def _sizes(images: int) -> tuple[int, int]:
    """A small batch and a large one: between them lie what a step costs and what an image costs."""
    return max(1, images // 4), images


def _step(cohort: Cohort, batch: Batch) -> float:
    return float(cohort.step(batch).sum())  # reading it waits for a GPU


def _best(work: Callable[[], object]) -> float:
    """The least seconds of a few repetitions: what else runs on the machine only adds to them."""
    return min(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
