"""How a search's cohorts fit into a cluster."""

from dataclasses import replace
from math import gcd

from cluster.profile import Layout, Profile
from pipelines.plan import Prepared, num_trials, probing_trials


def layout_of(ready: Prepared, profile: Profile, cpus: float, gpus: float, *, isolated: bool) -> Layout:
    """The layout of a search: its cohorts share the cluster; isolated trials are cohorts of one.

    Raises:
        ClusterError: not even one cohort fits.
    """
    trials = probing_trials(ready)
    seeds = [replace(trial, train=replace(trial.train, seed=seed)) for trial in trials for seed in ready.space.seeds]
    num_cohorts = num_trials(ready.space) if isolated else len({trial.cohort_key for trial in seeds})
    batch_size = gcd(*(trial.train.batch_size for trial in trials))
    return profile.layout(cpus, gpus, batch_size=batch_size, num_cohorts=num_cohorts)
