"""Who is measured on test, what is trained for that, and whose bundle deploys: decisions over runs alone."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.planning.plan import Prepared, expected_finals
from pipelines.results.leaderboard import rows
from pipelines.search.champions import best, candidates, deployed, final_trials, finalists, untrained
from pipelines.tracking.records import RunRecord
from search_spaces.loader import check_space
from search_spaces.space import Facts
from utuning.configs import TrialConfig
from utuning.errors import TrackingError

FACTS = Facts(data_fingerprint="d", num_classes=5, backbone_fingerprint="b")


def ready(**changes: Any) -> Prepared:
    """A space of a linear baseline and two widths, as far as decisions look."""
    values = {
        "name": "tiny",
        "dataset": {"name": "tiny", "source": "folder", "path": "images"},
        "backbone": {"name": "vit", "weights": "none"},
        "train": {"lr": 1e-3, "epochs": 2},
        "tuners": [{"method": "p_adapter", "ops": ["attn"], "bottleneck_dim": {"choice": [2, 4]}}],
        "baselines": [{"tuners": []}],
        "budget": {"num_trials": 2},
        **changes,
    }
    return Prepared(space=check_space(values, "tiny"), dataset=None, backbone=None, facts=FACTS)  # type: ignore[arg-type]


def run(trial: TrialConfig, val: float | None = None, **changes: Any) -> RunRecord:
    metrics = {"val/accuracy": val, "test/accuracy": changes.pop("test", None), "trainable_params": 9.0}
    kind = {"search_id": "s", "outcome": "completed", "start_time": 0, **changes}
    name = f"{trial.trial_id}{'f' if kind.get('final') else ''}"
    known = {key: value for key, value in metrics.items() if value is not None}
    return RunRecord(run_id=name, trial=trial, metrics=known, **kind)


def searched(space: Prepared, **outcomes: str) -> list[RunRecord]:
    """A run of each trial; later ones are better."""
    trials = space.space.baseline_trials(FACTS) + space.space.random_trials(FACTS)
    return [run(trial, 0.5 + at / 100, outcome=outcomes.get(f"of{at}", "completed")) for at, trial in enumerate(trials)]


def seeds_of(trials: list[TrialConfig]) -> list[tuple[str, int]]:
    return [(trial.method, trial.train.seed) for trial in trials]


def test_by_default_the_finals_train_nothing_and_measure_the_best_and_the_baseline() -> None:
    space = ready(seeds=[0, 1])
    runs = searched(space)
    assert untrained(space, runs) == []
    measured = finalists(space, runs)
    assert {each.trial.config_id for each in measured} == {runs[0].trial.config_id, best(candidates(runs)).config_id}
    assert len(measured) == 4
    assert deployed(space.space, best(candidates(runs)), runs) == best(candidates(runs))


def test_more_seeds_are_trained_and_those_of_the_search_are_not_trained_again() -> None:
    space = ready(finals={"seeds": [0, 7, 8]})
    runs = searched(space)
    wanted = untrained(space, runs)
    assert sorted(seeds_of(wanted)) == [("linear", 7), ("linear", 8), ("p_adapter", 7), ("p_adapter", 8)]
    assert {trial.train_splits for trial in wanted} == {("train",)}
    done = [*runs, *(run(trial, 0.9, final=True) for trial in wanted)]
    assert untrained(space, done) == [] and len(finalists(space, done)) == 6
    assert best(candidates(done)) == best(candidates(runs)), "a final's val selects nothing"
    assert {each.val for each in rows(done)} == {each.val for each in rows(runs)}


AGAIN = {"protocol": "trainval-final"}


def test_trainval_final_trains_again_on_both_splits_and_never_measures_the_searchs_own_runs() -> None:
    space = ready(**AGAIN)
    runs = searched(space)
    assert finalists(space, runs) == []
    wanted = untrained(space, runs)
    assert [seed for _, seed in seeds_of(wanted)] == [0, 0, 1, 1, 2, 2], "a seed's cohort together"
    assert {trial.train_splits for trial in wanted} == {("train", "val")}
    assert {trial.config_id for trial in wanted} < {each.trial.config_id for each in runs}
    assert {trial.trial_id for trial in wanted}.isdisjoint(each.trial.trial_id for each in runs)
    finals = [run(trial, final=True) for trial in wanted]
    assert finalists(space, [*runs, *finals]) == finals


def test_a_final_is_neither_trained_nor_measured_twice() -> None:
    space = ready(**AGAIN)
    runs = searched(space)
    first, second, *rest = untrained(space, runs)
    half = [*runs, run(first, final=True, test=0.5), run(second, final=True, outcome="failed")]
    assert untrained(space, half) == [second, *rest]
    assert finalists(space, half) == []


def test_what_failed_in_the_search_is_left_out_and_what_was_stopped_is_finished() -> None:
    space = ready(seeds=[0, 1], budget={"num_trials": 1})
    failed = searched(space, of3="failed")
    assert untrained(space, failed) == [] and len(finalists(space, failed)) == 3
    stopped = searched(space, of3="stopped")
    assert [trial.trial_id for trial in untrained(space, stopped)] == [stopped[3].trial.trial_id]
    assert untrained(space, searched(space, of0="failed", of1="failed")) == [], "a baseline that never ran"


def test_baselines_can_be_left_out() -> None:
    space = ready(**AGAIN, finals={"baselines": False})
    assert {method for method, _ in seeds_of(untrained(space, searched(space)))} == {"p_adapter"}


def test_the_first_final_seed_that_came_to_its_end_deploys_whatever_test_says() -> None:
    space = ready(**AGAIN)
    runs = searched(space)
    chosen = best(candidates(runs))
    finals = [
        run(
            trial,
            final=True,
            test=0.1 * (1 + trial.train.seed),
            outcome="failed" if trial.train.seed == 0 else "completed",
        )
        for trial in final_trials(space, runs)
    ]
    found = deployed(space.space, chosen, [*runs, *finals])
    (of_seed_1,) = [each for each in finals if each.trial.config_id == chosen.config_id and each.trial.train.seed == 1]
    assert found == replace(chosen, run_id=of_seed_1.run_id)
    with pytest.raises(TrackingError, match="every seed failed"):
        deployed(space.space, chosen, [*runs, *(replace(each, outcome="failed") for each in finals)])


def test_a_row_has_val_of_the_search_and_test_of_the_finals() -> None:
    space = ready(**AGAIN)
    runs = searched(space)
    finals = [run(trial, final=True, test=0.6 + trial.train.seed / 100) for trial in final_trials(space, runs)]
    made = rows([*runs, *finals], champion_run_id=finals[-1].run_id)
    assert [row.val for row in made] == [row.val for row in rows(runs)]
    best_row = made[0]
    assert (best_row.test, best_row.test_seeds, best_row.seeds) == (pytest.approx(0.61), (0, 1, 2), (0,))
    assert best_row.test_ci == pytest.approx(4.302653 * 0.01 / 3**0.5)
    assert best_row.test_from == ("train", "val") and len(best_row.test_run_ids) == 3
    assert sum(row.champion for row in made) == 1
    assert [row.test for row in made if not row.test_run_ids] == [None]


def test_a_plan_counts_what_finals_train_beyond_the_search() -> None:
    assert expected_finals(ready(seeds=[0, 1])) == []
    again = expected_finals(ready(**AGAIN))
    assert sorted(seeds_of(again)) == sorted((method, seed) for method in ("linear", "p_adapter") for seed in (0, 1, 2))
    more = expected_finals(ready(finals={"seeds": [0, 1, 2], "baselines": False}))
    assert seeds_of(more) == [("p_adapter", 1), ("p_adapter", 2)]
