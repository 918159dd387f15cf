"""Who suggests trials, with the real Ray Searcher interface and the real Optuna."""

from typing import Any

import pytest
from ray.tune.search import Searcher

from pipelines.search.searcher import SpaceSearcher
from search_spaces.loader import check_space
from search_spaces.space import Facts, SearchSpace
from utuning.configs import TrialConfig

FACTS = Facts(data_fingerprint="d", num_classes=5, backbone_fingerprint="b")


def space(searcher: str, seeds: list[int], num_trials: int = 5) -> SearchSpace:
    return check_space(
        {
            "name": "tiny",
            "dataset": {"name": "tiny", "source": "folder", "path": "images"},
            "backbone": {"name": "vit_tiny_patch16_224", "weights": "none"},
            "train": {"lr": {"loguniform": [1e-4, 1e-2]}, "epochs": {"randint": [1, 4]}},
            "tuners": [{"method": "p_adapter", "ops": {"choice": [["attn"], ["mlp"]]}, "bottleneck_dim": 4}],
            "baselines": [{"tuners": []}],
            "budget": {"num_trials": num_trials, "searcher": searcher},
            "seeds": seeds,
        },
        "tiny",
    )


def value(trial: TrialConfig) -> float:
    """A made-up landscape: a larger rate is better."""
    return trial.train.lr


def play(searcher: SpaceSearcher) -> list[TrialConfig]:
    """Suggest and complete until the searcher has no more."""
    trials: list[TrialConfig] = []
    while (suggested := searcher.suggest(f"t{len(trials)}")) != Searcher.FINISHED:
        trial = TrialConfig.from_dict(suggested["case"]["trial"])
        trials.append(trial)
        result: dict[str, Any] = {"val/accuracy": value(trial)}
        searcher.on_trial_complete(f"t{len(trials) - 1}", result=result)
    return trials


@pytest.mark.parametrize("kind", ["random", "optuna"])
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_baselines_first_then_each_configuration_once_for_every_seed(kind: str, seeds: list[int]) -> None:
    trials = play(SpaceSearcher(space(kind, seeds), FACTS, {}))
    assert len(trials) == len({trial.trial_id for trial in trials}) == 6 * len(seeds)
    assert all(trial.method == "linear" for trial in trials[: len(seeds)])
    assert [trial.train.seed for trial in trials] == seeds * 6


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_what_is_done_is_not_suggested_again(kind: str) -> None:
    everything = play(SpaceSearcher(space(kind, [0]), FACTS, {}))
    done = {trial.trial_id: value(trial) for trial in everything[:3]}
    rest = play(SpaceSearcher(space(kind, [0]), FACTS, done))
    assert {trial.trial_id for trial in rest} & set(done) == set()
    assert len(rest) == 3
    assert [trial.trial_id for trial in rest] == [trial.trial_id for trial in everything[3:]]


def test_optuna_learns_where_it_is_good() -> None:
    trials = play(SpaceSearcher(space("optuna", [0], num_trials=30), FACTS, {}))[1:]
    early = sum(value(trial) for trial in trials[:10])
    late = sum(value(trial) for trial in trials[-10:])
    assert late > early


def test_a_trial_that_failed_teaches_nothing_and_stops_nothing() -> None:
    searcher = SpaceSearcher(space("optuna", [0]), FACTS, {})
    count = 0
    while searcher.suggest(f"t{count}") != Searcher.FINISHED:
        searcher.on_trial_complete(f"t{count}", error=True)
        count += 1
    assert count == 6
