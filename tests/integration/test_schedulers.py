"""How a space's budget becomes one of Tune's schedulers, with Tune's own classes."""

import copy
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, PopulationBasedTraining

from pipelines.search.schedulers import make_scheduler
from pipelines.search.searcher import tune_config
from search_spaces.loader import check_space
from search_spaces.space import Facts, SearchSpace

FACTS = Facts(data_fingerprint="d", num_classes=5, backbone_fingerprint="b")
LOW, HIGH = 1e-3, 1e-2
RATES: dict[str, Any] = {
    "an interval": {"loguniform": [LOW, HIGH]},
    "listed values": {"choice": [3e-3, HIGH, LOW]},
    "one value": LOW,
}


def space(scheduler: str, lr: Any = LOW) -> SearchSpace:
    return check_space(
        {
            "name": "tiny",
            "dataset": {"name": "tiny", "source": "folder", "path": "images"},
            "backbone": {"name": "vit_tiny_patch16_224", "weights": "none"},
            "train": {"lr": lr, "epochs": {"choice": [4, 6]}, "weight_decay": {"choice": [1e-4, 1e-3]}},
            "tuners": [{"method": "p_adapter", "ops": ["attn"], "bottleneck_dim": {"choice": [2, 4]}}],
            "baselines": [{"tuners": [], "train": {"epochs": 9}}],
            "budget": {"num_trials": 4, "scheduler": scheduler, "grace_epochs": 2, "reduction_factor": 3},
        },
        "tiny",
    )


def explored(lr: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A trial's configuration, and what a population makes of it: each copies the one before."""
    scheduler = make_scheduler(space("pbt", lr))
    trial = space("pbt", lr).probing_trials(FACTS)[0]
    first = config = tune_config(trial)
    copies = []
    for _ in range(200):
        good = Trial("trial", config=config, stub=True)
        config, _operations = scheduler._get_new_config(good, good)
        copies.append(config)
    return first, copies


def test_without_a_scheduler_every_trial_runs_to_its_end() -> None:
    assert make_scheduler(space("none")) is None


@pytest.mark.parametrize(
    ("name", "kind"), [("asha", ASHAScheduler), ("median", MedianStoppingRule), ("pbt", PopulationBasedTraining)]
)
def test_a_scheduler_is_tunes_own_and_counts_epochs(name: str, kind: type) -> None:
    scheduler = make_scheduler(space(name))
    assert scheduler._time_attr == "epoch"
    assert type(scheduler) is kind


def test_the_budget_says_when_a_scheduler_acts() -> None:
    asha, median, pbt = (make_scheduler(space(name)) for name in ("asha", "median", "pbt"))
    assert [milestone for milestone, _ in asha._brackets[0]._rungs] == [6, 2]
    assert asha._max_t == 9
    assert median._grace_period == 2
    assert pbt._perturbation_interval == 2


@pytest.mark.parametrize("lr", RATES.values(), ids=RATES.keys())
def test_a_population_changes_nothing_of_a_trial_but_the_learning_rate(lr: Any) -> None:
    first, copies = explored(lr)
    for each in copies:
        trial = copy.deepcopy(each["case"]["trial"])
        trial["train"]["lr"] = first["case"]["trial"]["train"]["lr"]
        assert trial == first["case"]["trial"]


def test_a_population_tries_several_learning_rates() -> None:
    _, copies = explored(RATES["an interval"])
    assert len({each["case"]["trial"]["train"]["lr"] for each in copies}) > 10


@pytest.mark.parametrize("lr", RATES.values(), ids=RATES.keys())
def test_a_population_stays_within_the_spaces_learning_rates(lr: Any) -> None:
    _, copies = explored(lr)
    rates = [each["case"]["trial"]["train"]["lr"] for each in copies]
    assert LOW <= min(rates) <= max(rates) <= (LOW if lr == LOW else HIGH)


def test_a_copy_is_a_member_of_its_own() -> None:
    first, copies = explored(RATES["an interval"])
    assert len({each["case"]["id"] for each in (first, *copies)}) == 1 + len(copies)
