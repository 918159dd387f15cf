"""How a search's cohorts fit into a cluster."""

from dataclasses import replace
from math import gcd

from cluster.profile import Layout, Profile
from search_spaces.space import Facts, SearchSpace

# Layouts differ in nothing that data and backbone tell, so a layout can be had before these are read.
UNKNOWN = Facts(data_fingerprint="unknown", num_classes=2, backbone_fingerprint="unknown")


def layout_of(space: SearchSpace, profile: Profile, cpus: float, gpus: float, *, isolated: bool) -> Layout:
    """The layout of a search: its cohorts share the cluster; isolated trials are cohorts of one.

    Raises:
        ClusterError: not even one cohort fits.
    """
    trials = space.baseline_trials(UNKNOWN) + space.probing_trials(UNKNOWN)
    seeds = [replace(trial, train=replace(trial.train, seed=seed)) for trial in trials for seed in space.seeds]
    num_cohorts = space.num_trials if isolated else len({trial.cohort_key for trial in seeds})
    batch_size = gcd(*(trial.train.batch_size for trial in trials))
    return profile.layout(cpus, gpus, batch_size=batch_size, num_cohorts=num_cohorts)
