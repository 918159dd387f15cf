"""What a search will cost, predicted before it starts: who trains with whom, FLOPs, bytes and time.

FLOPs and bytes are counted; seconds are measured for a few steps and added up. It is a search in which every trial
runs to its end, from an empty cache: early stopping and states of earlier searches only make it shorter. What finals
train again counts as a trial of the search: the few images of val that they train on, and do not evaluate, do not.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.profile import Layout, Profile
from pipelines.planning.calibration import Process, as_worker, time_crews, time_input, time_process
from pipelines.planning.layouts import layout_of
from pipelines.planning.memory import base_bytes, need_bytes, room_bytes, too_large
from pipelines.planning.plan import Prepared, expected_finals, expected_trials
from pipelines.planning.prices import Clock, Counted, parallel_efficiency
from pipelines.planning.waves import SPLITS, Epoch, Wave, choose_members, make_epochs, make_waves, makespan, structure
from utuning.configs import TrialConfig
from utuning.costs import Cost, frozen_flops, trial_cost
from utuning.errors import ConfigError
from utuning.prefix import state_shapes

# What starts is counted in imports of Ray Train with torch: most of a process's start is what it imports. The numbers
# are CPU-seconds of a search's processes (benchmarks/profiles.py) in such imports.
CONTROLLER_IMPORTS, WORKER_IMPORTS = 2, 2
"""A worker group: its controller with its helper, and each of its workers."""
SEARCH_IMPORTS = 12
"""The driver with Tune and the tracking store 8, Ray 3, the service 1."""
TRIAL_IMPORTS = 0.5
"""A trial's process imports Tune, but no torch."""
STARTING_CORES = 2
"""What starts at a time keeps so many busy."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A search's predicted cost.

    Attributes:
        layout: how cohorts are laid out.
        members_per_cohort: the most that fit into a worker's memory, at most the profile's.
        max_members: the profile's.
        waves: who trains together, in the order in which they run.
        num_blocks: blocks of the backbone.
        shared_blocks: how many trials share so many of the first blocks' frozen states, by the number of blocks.
        flops: of all training and evaluation, members together.
        flops_isolated: the same with each trial alone.
        peak_bytes_per_worker: of the largest wave, on a GPU the GPU's.
        cached_bytes: of the frozen states that the search would keep on disk.
        cache_bytes: what they may take.
        seconds: of the search, members together.
        seconds_isolated: the same with `--isolated`.
        images_per_s: of training, each image counted for each member that trains on it.
        calibration_s: what counting and measuring took.
        notes: what will go wrong, in words.
    """

    layout: Layout
    members_per_cohort: int
    max_members: int
    waves: tuple[Wave, ...]
    num_blocks: int
    shared_blocks: Mapping[int, int]
    flops: float
    flops_isolated: float
    peak_bytes_per_worker: float
    cached_bytes: int
    cache_bytes: int
    seconds: float
    seconds_isolated: float
    images_per_s: float
    calibration_s: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Waves in a layout, and their epochs; isolated ones have a worker group each."""

    layout: Layout
    waves: Sequence[Wave]
    epochs: Sequence[Sequence[Epoch]]
    isolated: bool = False

    @property
    def all_epochs(self) -> list[Epoch]:
        """The epochs of all waves."""
        return [epoch for epochs in self.epochs for epoch in epochs]

    @property
    def num_cohorts(self) -> int:
        """How many cohorts run side by side."""
        return min(self.layout.num_cohorts, len(self.waves))


def forecast(ready: Prepared, profile: Profile, cpus: float, gpus: float) -> Forecast:
    """Predict a search on a cluster of so many CPUs and GPUs, of which this machine is one.

    Takes 10 to 20 seconds, more where the backbone is large. Trials that cannot train are noted and left out.

    Raises:
        ClusterError: not even one cohort fits.
        ConfigError: no trial can train.
    """
    started = time.perf_counter()
    layout, apart = (layout_of(ready.space, profile, cpus, gpus, isolated=isolated) for isolated in (False, True))
    cache_bytes = profile.cache_gb * 10**9
    with as_worker(ready.backbone, layout.cpus_per_worker, on_gpu=layout.gpus_per_worker > 0):
        trials, counted, notes = count_trials(ready)
        process = time_process()
        base, room = base_bytes(ready, layout, process), room_bytes(layout)
        needs = {trial.trial_id: need_bytes(counted.cost(trial), trial, layout) for trial in trials}
        members = choose_members(trials, needs, room - base, profile.max_members)
        together = plan_waves(counted, layout, make_waves(trials, members), cache_bytes)
        alone = plan_waves(counted, apart, make_waves(trials, 1, isolated=True), cache_bytes, isolated=True)
        spent = [counted.flops(plan.all_epochs) for plan in (together, alone)]
        clock = _clock(ready, counted, (together, alone), spent)
    return Forecast(
        layout=layout,
        members_per_cohort=members,
        max_members=profile.max_members,
        waves=tuple(together.waves),
        num_blocks=len(ready.backbone.trunk.blocks),
        shared_blocks=Counter(counted.cost(trial).num_shared_blocks for trial in trials),
        flops=sum(spent[0].values()),
        flops_isolated=sum(spent[1].values()),
        peak_bytes_per_worker=base + max(sum(needs[each.trial_id] for each in wave.trials) for wave in together.waves),
        cached_bytes=counted.cached_bytes(together.waves),
        cache_bytes=cache_bytes,
        seconds=_search_s(clock, together, process),
        seconds_isolated=_search_s(clock, alone, process),
        images_per_s=_images_per_s(clock, together),
        calibration_s=time.perf_counter() - started,
        notes=(*notes, *too_large(trials, needs, base, room)),
    )


def stand_in(profile: Profile) -> tuple[float, float]:
    """CPUs and GPUs to plan with before a cluster is joined: this machine's, or what a cohort of a remote one asks."""
    cpus, gpus = float(os.cpu_count() or 1), float(torch.cuda.device_count())
    if profile.address is None or isinstance(profile.num_workers, str):
        return cpus, gpus
    per_worker = 0 if isinstance(profile.gpus_per_worker, str) else profile.gpus_per_worker
    asked = profile.num_workers * profile.cpus_per_worker, profile.num_workers * per_worker
    return max(cpus, asked[0]), max(gpus, asked[1])


def count_trials(ready: Prepared) -> tuple[list[TrialConfig], Counted, list[str]]:
    """The trials that can train, what they cost, and why the others cannot."""
    costs: dict[str, Cost] = {}
    failed: dict[str, str] = {}
    expected = expected_trials(ready) + expected_finals(ready)
    for trial in expected:
        if structure(trial) not in {*costs, *failed}:
            try:
                # Autocast needs a device that computes; all else is counted on shapes, which takes a second.
                on = ready.backbone if trial.precision == "bf16" else ready.backbone.shapes
                costs[structure(trial)] = trial_cost(on, trial)
            except ConfigError as error:
                failed[structure(trial)] = f"{trial.name}: {error}"
    trials = [trial for trial in expected if structure(trial) in costs]
    if not trials:
        raise ConfigError(f"no trial can train; the first is {next(iter(failed.values()))}")
    counted = Counted(
        costs=costs,
        frozen=frozen_flops(ready.backbone),
        shapes=state_shapes(ready.backbone),
        num_images={split: ready.dataset.counts[split] for split in SPLITS},
    )
    return trials, counted, list(failed.values())


def plan_waves(
    counted: Counted, layout: Layout, waves: Sequence[Wave], cache_bytes: float, *, isolated: bool = False
) -> Plan:
    """Lay waves out, with what they can keep of the frozen states in so many bytes."""
    return Plan(layout, waves, make_epochs(waves, lambda wave: counted.cacheable(wave, cache_bytes)), isolated)


def _clock(ready: Prepared, counted: Counted, plans: Sequence[Plan], spent: Sequence[Mapping[str, float]]) -> Clock:
    """Measure the steps of these plans, those on which the most FLOPs are spent first, and their input."""
    epochs = [epoch for plan in plans for epoch in plan.all_epochs]
    crews = {crew.key: crew for epoch in epochs for crew in (epoch.train, epoch.val)}
    layout = plans[0].layout
    timings = time_crews(
        ready.backbone,
        crews,
        works={key: counted.work(crew) for key, crew in crews.items()},
        shares={key: sum(each.get(key, 0.0) for each in spent) for key in crews},
        images=max(crew.trials[0].train.batch_size for crew in crews.values()) // layout.num_workers,
    )
    return Clock(counted=counted, timings=timings, input=time_input(ready, layout.cpus_per_worker))


def _search_s(clock: Clock, plan: Plan, process: Process) -> float:
    waves_s = [clock.wave_s(epochs, plan.layout, plan.num_cohorts) for epochs in plan.epochs]
    seats, cores = max(len(wave.trials) for wave in plan.waves) * plan.num_cohorts, os.cpu_count() or 1
    search = (SEARCH_IMPORTS + TRIAL_IMPORTS * seats) / min(STARTING_CORES, cores)
    cores_of_group = min(STARTING_CORES, max(1.0, cores / plan.num_cohorts))
    group = (CONTROLLER_IMPORTS + WORKER_IMPORTS * plan.layout.num_workers) / cores_of_group
    training_s = makespan(waves_s, group * process.import_s, plan.layout.num_cohorts, isolated=plan.isolated)
    return process.import_s * search + training_s


def _images_per_s(clock: Clock, plan: Plan) -> float:
    images = sum(clock.counted.num_images["train"] * len(epoch.train.trials) for epoch in plan.all_epochs)
    seconds = sum(clock.train_s(epoch, plan.layout) for epoch in plan.all_epochs)
    return images / seconds * parallel_efficiency(plan.layout.num_workers * plan.num_cohorts)


def remember(found: Forecast, file: Path) -> None:
    """Keep what the search itself asks for: how many members fit, and what its report compares with the measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = ("seconds", "seconds_isolated", "members_per_cohort", "peak_bytes_per_worker")
    file.write_text(json.dumps({name: getattr(found, name) for name in kept}))


def remembered(file: Path) -> dict[str, float]:
    """What was predicted of a search; nothing if nobody asked."""
    try:
        known: dict[str, float] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known
