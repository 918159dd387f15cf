"""The planner: which trials train together, what that costs, and a whole forecast of a tiny space."""

import math
from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from rich.console import Console

from cluster.profile import Layout, Profile
from pipelines.planning import forecast as planner
from pipelines.planning.calibration import Input, Process, Timing, Work, affordable, estimate
from pipelines.planning.forecast import Forecast, forecast, stand_in
from pipelines.planning.memory import machine_bytes, room_bytes
from pipelines.planning.plan import prepare_search
from pipelines.planning.prices import Clock, Counted, parallel_efficiency
from pipelines.planning.waves import Crew, Epoch, Wave, choose_members, make_epochs, make_waves, makespan, structure
from pipelines.workflows.show import show_forecast
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from tests.e2e.tools import draw_images, write_space
from tests.tools import adapter, train, trial_of
from utuning.configs import TrialConfig
from utuning.costs import Cost, Line
from utuning.errors import ConfigError

ONE_WORKER = Layout(num_cohorts=1, num_workers=1, cpus_per_worker=1, gpus_per_worker=0)
NUM_BLOCKS = 4
FROZEN = (10, 110, 210, 310, 410, 412)


def trial(number: int = 0, **values: object) -> TrialConfig:
    """Trials of different numbers are different, and of one cohort."""
    settings = {"epochs": 2, "batch_size": 4, "lr": 1e-3 * (1 + number), **values}
    return trial_of(train=train(**settings))


trials_of_some_keys = st.lists(st.integers(0, 2), min_size=1, max_size=40).map(
    lambda seeds: [trial(number, seed=seed) for number, seed in enumerate(seeds)]
)


@given(trials_of_some_keys, st.integers(1, 9))
def test_every_trial_is_in_one_wave_of_its_key_and_no_wave_is_too_large(
    trials: list[TrialConfig], max_members: int
) -> None:
    waves = make_waves(trials, max_members)
    assert sorted(each.trial_id for wave in waves for each in wave.trials) == sorted(each.trial_id for each in trials)
    assert all(1 <= len(wave.trials) <= max_members for wave in waves)
    assert all(len({each.cohort_key for each in wave.trials}) == 1 for wave in waves)
    keys = [each.cohort_key for each in trials]
    assert len(waves) == sum(math.ceil(keys.count(key) / max_members) for key in set(keys))


@given(trials_of_some_keys)
def test_isolated_trials_stand_alone(trials: list[TrialConfig]) -> None:
    waves = make_waves(trials, 16, isolated=True)
    assert [wave.trials for wave in waves] == [(each,) for each in trials]


@given(
    trials_of_some_keys, st.integers(1, 16), st.lists(st.integers(1, 9), min_size=40, max_size=40), st.integers(1, 50)
)
def test_as_many_members_as_fit_into_memory(trials: list[TrialConfig], most: int, sizes: list[int], room: int) -> None:
    needs = {each.trial_id: float(size) for each, size in zip(trials, sizes, strict=False)}
    chosen = choose_members(trials, needs, room, most)
    keys = {each.cohort_key for each in trials}

    def largest(size: int) -> float:
        """What so many members need at most, whoever meets."""
        return max(
            sum(sorted(needs[each.trial_id] for each in trials if each.cohort_key == key)[-size:]) for key in keys
        )

    assert 1 <= chosen <= most
    assert chosen == 1 or largest(chosen) <= room
    assert chosen == most or largest(chosen + 1) > room


@given(st.lists(st.floats(0, 9), min_size=1), st.integers(1, 4), st.floats(0, 5))
def test_slots_share_the_work_and_start_one_group_each(waves_s: list[float], slots: int, start_s: float) -> None:
    done, most = makespan(waves_s, start_s, slots), max(waves_s)
    assert done >= max(sum(waves_s) / slots, most) + start_s - 1e-9
    assert done <= sum(waves_s) / slots + most + start_s + 1e-9
    apart = makespan(waves_s, start_s, slots, isolated=True)
    assert apart == pytest.approx(makespan([each + start_s for each in waves_s], 0.0, slots))


def test_a_slot_keeps_its_group_for_the_waves_that_follow() -> None:
    assert makespan([1.0, 1.0, 1.0], start_s=10.0, slots=1) == 13.0
    assert makespan([1.0, 1.0, 1.0], start_s=10.0, slots=1, isolated=True) == 33.0
    assert makespan([1.0, 1.0, 1.0], start_s=10.0, slots=3) == 11.0


def test_trials_of_one_structure_differ_in_learning_rate_and_seed_alone() -> None:
    one = trial_of(adapter("attn"))
    assert structure(one) == structure(trial_of(adapter("attn"), train=train(lr=0.5, seed=3)))
    assert structure(one) != structure(trial_of(adapter("mlp")))
    assert structure(one) != structure(trial_of(adapter("attn"), train=train(drop_path=0.1)))


def cold_and_warm(waves: Sequence[Wave], depths: frozenset[int]) -> list[tuple[str, str]]:
    """For each wave, c or w for every epoch of train, and of val."""
    found = make_epochs(waves, lambda wave: (depths, depths))
    marks = [[("w" if e.train.known else "c", "w" if e.val.known else "c") for e in epochs] for epochs in found]
    return [("".join(t for t, _ in wave), "".join(v for _, v in wave)) for wave in marks]


def test_states_are_known_from_the_second_visit_of_a_view_on() -> None:
    viewed = replace(trial(epochs=5), views=2)
    waves = [Wave(trials=(viewed,)), Wave(trials=(viewed,))]
    assert cold_and_warm(waves, frozenset({5})) == [("ccwww", "cwwww"), ("wwwww", "wwwww")]
    other_crops = Wave(trials=(replace(viewed, train=replace(viewed.train, seed=1)),))
    assert cold_and_warm([waves[0], other_crops], frozenset({5}))[1] == ("ccwww", "cwwww")
    assert cold_and_warm(waves, frozenset()) == [("ccccc", "ccccc")] * 2


def test_members_that_end_earlier_leave_their_wave() -> None:
    wave = Wave(trials=(trial(0, epochs=1), trial(1, epochs=3)))
    (epochs,) = make_epochs([wave], lambda wave: (frozenset(), frozenset()))
    assert [len(epoch.train.trials) for epoch in epochs] == [2, 1, 1]
    assert [epoch.number for epoch in epochs] == [0, 1, 2]


def cost(depth: int, own: float = 50.0) -> Cost:
    """A member that leaves the shared stream at a block, or reads the features."""
    return Cost(
        step=Line(per_image=3 * own),
        evaluate=Line(per_image=own),
        shared=float(FROZEN[depth]),
        reads=frozenset({depth}),
        num_shared_blocks=min(depth, NUM_BLOCKS),
        kept_bytes=8.0,
        member_bytes=100,
    )


LINEAR, LATE = trial(0), trial_of(adapter("attn", depths="last:2"), train=train(epochs=2, batch_size=4))
COUNTED = Counted(
    costs={structure(LINEAR): cost(5, own=1.0), structure(LATE): cost(2)},
    frozen=FROZEN,
    shapes=dict.fromkeys(range(5), (17, 32)) | {5: (32,)},
    num_images={"train": 10, "val": 6},
)


def test_frozen_work_is_paid_once_up_to_the_furthest_reader() -> None:
    work = COUNTED.work(Crew(trials=(LINEAR, LATE, LATE)))
    assert work == Work(step=412 + 3 + 2 * 150, evaluate=412 + 1 + 2 * 50, num_members=3)


def test_known_states_are_not_computed_again() -> None:
    both = (LINEAR, LATE)
    assert COUNTED.work(Crew(trials=both, known=frozenset({2, 5}))).step == 153
    assert COUNTED.work(Crew(trials=both, known=frozenset({5}))).step == 153 + 210
    assert COUNTED.work(Crew(trials=both, known=frozenset({2}))).step == 153 + 412 - 210


def test_flops_of_an_epoch_count_whole_batches_of_both_splits() -> None:
    crew = Crew(trials=(LATE,))
    spent = COUNTED.flops([Epoch(number=0, train=crew, val=crew)] * 2)
    assert spent == {crew.key: 2 * (12 * (210 + 150) + 8 * (210 + 50))}


def test_the_cheapest_states_are_cached_first() -> None:
    wave = Wave(trials=tuple(replace(each, views=3) for each in (LINEAR, LATE)))
    features, stream = 4 * 32 + 4, 4 * 17 * 32 + 4
    assert COUNTED.cacheable(wave, math.inf) == (frozenset({2, 5}), frozenset({2, 5}))
    assert COUNTED.cached_bytes([wave, wave]) == (3 * 10 + 6) * (features + stream)
    assert COUNTED.cacheable(wave, 16 / 10 * 3 * 10 * features) == (frozenset({5}), frozenset({5}))
    assert COUNTED.cacheable(wave, 10) == (frozenset(), frozenset())
    online = Wave(trials=(LINEAR, LATE))
    assert COUNTED.cacheable(online, math.inf) == (frozenset(), frozenset())
    assert COUNTED.cached_bytes([online]) == 0


def clock(crew: Crew) -> Clock:
    timing = Timing(step=Line(fixed=1.0, per_image=2.0), evaluate=Line(per_image=1.0))
    return Clock(counted=COUNTED, timings={crew.key: timing}, input=Input(decode_s=10.0, crop_s=1.0))


def test_seconds_of_an_epoch_are_its_steps_and_its_images() -> None:
    crew = Crew(trials=(LATE,))
    first, second = (Epoch(number=number, train=crew, val=crew) for number in (0, 1))
    two = replace(ONE_WORKER, num_workers=2)
    assert clock(crew).train_s(first, ONE_WORKER) == 3 * (1 + 2 * 4) + 10 * (1 + 10)
    assert clock(crew).train_s(second, ONE_WORKER) == 3 * (1 + 2 * 4) + 10
    assert clock(crew).train_s(second, two) == 3 * (1 + 2 * 2) + 5 * (1 + 0.5 * 10)
    assert clock(crew).train_s(first, replace(ONE_WORKER, gpus_per_worker=1)) == 10 * (1 + 10)
    warm = Crew(trials=(LATE,), known=frozenset({2}))
    assert clock(warm).train_s(Epoch(number=0, train=warm, val=warm), ONE_WORKER) == 3 * (1 + 2 * 4)


def test_workers_of_one_machine_slow_each_other_down() -> None:
    assert [parallel_efficiency(count) for count in (1, 2)] == [1.0, 0.85]
    assert 2 * parallel_efficiency(2) < 4 * parallel_efficiency(4)


def test_what_was_not_measured_is_estimated_by_flops_and_members() -> None:
    works = {
        "small": Work(step=10.0, evaluate=5.0, num_members=1),
        "large": Work(step=1e4, evaluate=1e3, num_members=9),
    }
    line = Line(fixed=1.0, per_image=1.0)
    measured = {"small": Timing(step=line, evaluate=line), "large": Timing(step=line.scaled(5, 5), evaluate=line)}
    guess = estimate(Work(step=30.0, evaluate=10.0, num_members=2), measured, works)
    assert guess == Timing(step=Line(fixed=2.0, per_image=3.0), evaluate=Line(fixed=2.0, per_image=2.0))
    assert estimate(works["large"], measured, works) == measured["large"]
    assert estimate(Work(step=0.0, evaluate=0.0, num_members=1), measured, works).step.per_image == 0.1


def test_a_crew_is_timed_on_the_largest_batch_that_its_budget_allows() -> None:
    guess = Timing(step=Line(per_image=0.75), evaluate=Line(per_image=0.25))
    sizes = [affordable(guess, 32, budget) for budget in (1e9, 50.0, 8.0, 1.0)]
    assert sizes[0] == 32
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("tiny")
    space = write_space(
        folder / "tiny.yaml",
        draw_images(folder / "images"),
        tuners=[{"method": "p_adapter", "ops": ["mlp"], "depths": {"choice": ["all", "last:1"]}, "bottleneck_dim": 4}],
        budget={"num_trials": 4},
        views=1,
    )
    return prepare_search(load_space(str(space)), Workspace(folder / "runs"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started, and steps are timed for a moment."""
    monkeypatch.setattr(planner, "time_process", lambda: Process(import_s=3.0, num_bytes=10**9))
    monkeypatch.setattr("pipelines.planning.calibration.STEPS_BUDGET_S", 0.3)


NUMBERS = (
    "flops",
    "flops_isolated",
    "peak_bytes_per_worker",
    "cached_bytes",
    "seconds",
    "seconds_isolated",
    "images_per_s",
)


def test_a_forecast_of_a_tiny_space(ready, quick: None) -> None:  # type: ignore[no-untyped-def]
    found = forecast(ready, Profile(name="p"), 2, 0)
    assert all(math.isfinite(getattr(found, name)) and getattr(found, name) > 0 for name in NUMBERS)
    assert found.layout == replace(ONE_WORKER, num_workers=2)
    assert found.members_per_cohort == 8
    assert [len(wave.trials) for wave in found.waves] == [5]
    assert sum(found.shared_blocks.values()) == 5
    assert found.shared_blocks.keys() <= {0, 1, 2}
    assert found.shared_blocks[2] == 1
    assert found.flops < found.flops_isolated
    assert found.seconds_isolated > found.seconds
    assert found.notes == ()


def test_where_memory_is_short_fewer_train_together_and_who_does_not_fit_is_named(  # type: ignore[no-untyped-def]
    ready, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.planning.memory.machine_bytes", lambda: 10**6)
    found = forecast(ready, Profile(name="p"), 1, 0)
    assert found.members_per_cohort == 1
    assert len(found.waves) == len(found.notes) == 5
    assert "linear" in found.notes[0]
    assert "lower train.batch_size" in found.notes[0]


def test_a_trial_that_cannot_train_is_noted_and_left_out(  # type: ignore[no-untyped-def]
    ready, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = planner.trial_cost

    def picky(backbone: object, trial: TrialConfig) -> Cost:
        if trial.tuners:
            raise ConfigError("no")
        return counted(ready.backbone, trial)

    monkeypatch.setattr(planner, "trial_cost", picky)
    found = forecast(ready, Profile(name="p"), 1, 0)
    assert [len(wave.trials) for wave in found.waves] == [1]
    assert {note.rpartition(": ")[2] for note in found.notes} == {"no"}
    monkeypatch.setattr(planner, "trial_cost", lambda *_: picky(None, LATE))
    with pytest.raises(ConfigError, match="no trial can train; the first is linear"):
        forecast(ready, Profile(name="p"), 1, 0)


def test_a_remote_profile_is_planned_with_what_one_of_its_cohorts_asks_for() -> None:
    here = stand_in(Profile(name="p"))
    assert here[0] >= 1
    asking = Profile(name="p", address="head:6379", num_workers=64, cpus_per_worker=4, gpus_per_worker=1)
    assert stand_in(asking) == (256.0, 64.0)
    assert stand_in(replace(asking, num_workers="auto")) == here


def test_a_forecast_in_words() -> None:
    wave = Wave(trials=(LINEAR, LATE))
    found = Forecast(
        layout=replace(ONE_WORKER, num_workers=2, num_cohorts=2),
        members_per_cohort=16,
        max_members=16,
        waves=(wave, wave),
        num_blocks=NUM_BLOCKS,
        shared_blocks={0: 5, 4: 10, 2: 1},
        flops=3.1e12,
        flops_isolated=9.92e12,
        peak_bytes_per_worker=1.2e9,
        cached_bytes=200_000_000,
        cache_bytes=4 * 10**9,
        seconds=95.2,
        seconds_isolated=410.0,
        images_per_s=1234.0,
        calibration_s=6.0,
        notes=("careful",),
    )
    console = Console(width=300, record=True)
    show_forecast(found, console)
    assert [line.strip() for line in console.export_text().splitlines()] == [
        "cohorts    1 of 16 members at most, 2 waves, 2 side by side; 2 workers each",
        "shared     all 4 blocks' frozen states by 10 of 16 trials, the first 2 by 1, none by 5",
        "FLOPs      3.1e+12 together, 9.9e+12 alone: 3.2x less",
        "memory     1.2 GB a worker at most; cached states 0.2 of 4 GB",
        "time       about 95 s, 410 s with --isolated; training 1,234 img/s (calibrated in 6 s on this machine)",
        "note       careful",
    ]
    short = Console(width=300, record=True)
    show_forecast(replace(found, members_per_cohort=1, waves=(wave,), shared_blocks={2: 1}), short)
    cohorts, shared, *_ = short.export_text().splitlines()
    assert "1 of 1 member at most, as memory does not allow 16, 1 wave" in cohorts
    assert shared.endswith("the first 2 blocks' frozen states by 1 of 1 trial")


def test_a_worker_has_its_share_of_the_memory() -> None:
    one, four = (room_bytes(replace(ONE_WORKER, num_workers=2, num_cohorts=cohorts)) for cohorts in (1, 2))
    assert one == 2 * four < machine_bytes()
    if not torch.cuda.is_available():
        assert room_bytes(replace(ONE_WORKER, gpus_per_worker=1)) == math.inf
