"""Tune's schedulers, as a space's budget names them."""

from typing import Any

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.space import Facts, SearchSpace

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

    budget = space.budget
    return ASHAScheduler(
        time_attr=TIME,
        max_t=_most_epochs(space),
        grace_period=budget.grace_epochs,
        reduction_factor=budget.reduction_factor,
    )


def _median(space: SearchSpace) -> Any:
    from ray.tune.schedulers import MedianStoppingRule

    return MedianStoppingRule(time_attr=TIME, grace_period=space.budget.grace_epochs, min_samples_required=3)


def _pbt(space: SearchSpace) -> Any:
    from ray.tune.schedulers import PopulationBasedTraining

    low, high = _learning_rates(space)
    return PopulationBasedTraining(
        time_attr=TIME,
        perturbation_interval=space.budget.grace_epochs,
        hyperparam_mutations={"trial": {"train": {"lr": _between(low, high)}}},
        quantile_fraction=0.25,
    )


def _learning_rates(space: SearchSpace) -> tuple[float, float]:
    """The smallest and largest learning rate that the space can draw."""
    domains: list[Domain] = [domain for path, domain in space.domains.items() if path.endswith("train.lr")]
    ends = [end for domain in domains for end in _ends(domain)]
    ends += [trial.train.lr for trial in space.probing_trials(_NO_FACTS)]
    return min(ends), max(ends)


def _ends(domain: Domain) -> list[float]:
    if isinstance(domain, Interval):
        return [float(domain.low), float(domain.high)]
    return [float(value) for value in domain.values] if isinstance(domain, Choice) else []


def _between(low: float, high: float) -> Any:
    from ray import tune

    return tune.loguniform(low, high) if low < high else tune.choice([low])


def _most_epochs(space: SearchSpace) -> int:
    trials = [*space.baseline_trials(_NO_FACTS), *space.probing_trials(_NO_FACTS)]
    return max(trial.train.epochs for trial in trials)


_NO_FACTS = Facts(data_fingerprint="", num_classes=1, backbone_fingerprint="")
