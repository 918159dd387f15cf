"""Tune's schedulers, as a space's budget names them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from pipelines.cohorts.progress import ProgressStore
from search_spaces.space import Facts, SearchSpace
from utuning.configs import TrialConfig

# An absolute epoch: Tune's own iteration counter starts anew when a trial goes on after it was cut off.
TIME = "epoch"


def make_scheduler(space: SearchSpace) -> Any:
    """The scheduler of a space; None lets every trial run to its end.

    `asha` stops the worse part at each rung, `median` what is below the median of the others' means, and `pbt` lets the
    worst go on from the best ones' states with other learning rates.
    """
    return {"none": lambda space: None, "asha": _asha, "median": _median, "pbt": _pbt}[space.budget.scheduler](space)


def _asha(space: SearchSpace) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    budget, most = space.budget, max(trial.train.epochs for trial in _trials(space))
    return ASHAScheduler(
        time_attr=TIME,
        max_t=most,
        grace_period=min(budget.grace_epochs, most),
        reduction_factor=budget.reduction_factor,
    )


def _median(space: SearchSpace) -> Any:
    from ray.tune.schedulers import MedianStoppingRule

    return MedianStoppingRule(time_attr=TIME, grace_period=space.budget.grace_epochs, min_samples_required=3)


def _pbt(space: SearchSpace) -> Any:
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining

    rates = [trial.train.lr for trial in _trials(space)]
    low, high = min(rates), max(rates)
    return PopulationBasedTraining(
        time_attr=TIME,
        perturbation_interval=space.budget.grace_epochs,
        hyperparam_mutations={"case": {"trial": {"train": {"lr": tune.uniform(low, high)}}}},
        custom_explore_fn=partial(_explored, low, high),
    )


def _explored(low: float, high: float, config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a better trial with another rate, within the space's, is a member of its own."""
    case = config["case"]
    case["trial"]["train"]["lr"] = min(high, max(low, case["trial"]["train"]["lr"]))
    case["id"] = f"{case['id'].partition('-')[0]}-{uuid4().hex[:8]}"
    return config


def going_on(
    cases: Sequence[Mapping[str, Any]], store: ProgressStore
) -> tuple[list[Mapping[str, Any]], dict[str, TrialConfig]]:
    """A population's cases after an interruption: copies where others were copied; and what began as these, by id."""
    found = [(case, store.became(case["id"]) or case) for case in cases]
    began_as = {now["id"]: TrialConfig.from_dict(case["trial"]) for case, now in found if now is not case}
    return [now for _, now in found], began_as


def _trials(space: SearchSpace) -> list[TrialConfig]:
    """Trials that between them take every listed value and every end of an interval."""
    facts = Facts(data_fingerprint="", num_classes=1, backbone_fingerprint="")
    return [*space.baseline_trials(facts), *space.probing_trials(facts)]
