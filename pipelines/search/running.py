"""Runs trials through Tune, those of a search and those of its finals alike."""

from typing import Any

from ray import tune

from pipelines.cohorts.crew import Crew
from pipelines.cohorts.shared import Shared
from pipelines.cohorts.trial import Trial
from pipelines.search.recorder import Recorder

# A trial's process takes memory, not a CPU: all CPUs are for the cohorts' workers.
TRIAL_MEMORY = 100_000_000
# A process or a worker group that is lost is started again; a member that failed by itself is not.
MAX_TRIAL_FAILURES = 2


def run_trials(crew: Crew, shared: Shared, recorder: Recorder, name: str, cases: list[Any], **options: Any) -> None:
    """Run trials to their end.

    Args:
        crew: whose service seats the trials.
        shared: what all trials share.
        recorder: is told of every epoch.
        name: Tune's folder in the search's.
        cases: the trials' cases as `tune_config` gives them, unless a searcher suggests them.
        options: those of `tune.TuneConfig`.
    """
    trainable = tune.with_parameters(Trial, service=crew.service, shared=shared)
    concurrent = crew.group.layout.num_cohorts * shared.max_members
    tune.Tuner(
        tune.with_resources(trainable, {"memory": TRIAL_MEMORY}),
        param_space={"case": tune.grid_search(cases)} if cases else {},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config["case"]["name"],
            trial_dirname_creator=lambda trial: trial.config["case"]["id"],
            **{"max_concurrent_trials": concurrent, **options},
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=shared.storage,
            verbose=0,
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
        ),
    ).fit()
