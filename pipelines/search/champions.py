"""From a search's runs to its champion: who is a candidate, whose test is read, and who is promoted."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from pipelines.planning.plan import Prepared
from pipelines.registry.models import Registry
from pipelines.registry.promotion import Candidate, Decision, best, decide
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from search_spaces.space import SearchSpace
from utuning.configs import TrialConfig
from utuning.data.protocols import find_protocol
from utuning.errors import TrackingError

VAL = "val/accuracy"
FAILED = ("failed", False)
"""Outcome of a run, and whether it is a final's."""


def final_trials(ready: Prepared, runs: Sequence[RunRecord]) -> list[TrialConfig]:
    """What test is measured of: the best configuration and the baselines that ran, once for each final seed."""
    space = ready.space
    chosen = {best(candidates(runs)).config_id}
    if space.finals.baselines:
        chosen |= {trial.config_id for trial in space.baseline_trials(ready.facts)}
    configs = {run.trial.config_id: run.trial for run in completed(runs) if run.trial.config_id in chosen}
    return space.as_finals([trial for _, trial in sorted(configs.items())])


def untrained(ready: Prepared, runs: Sequence[RunRecord]) -> list[TrialConfig]:
    """The final trials that no run has brought to its end. One that failed in the search would fail again."""
    over = {run.trial.trial_id for run in runs if run.outcome == "completed" or (run.outcome, run.final) == FAILED}
    return [trial for trial in final_trials(ready, runs) if trial.trial_id not in over]


def finalists(ready: Prepared, runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs whose test is still to be read: those of the final trials."""
    wanted = {trial.trial_id for trial in final_trials(ready, runs)}
    return [
        run
        for run in runs
        if run.outcome == "completed" and run.trial.trial_id in wanted and "test/accuracy" not in run.metrics
    ]


def promote(space: SearchSpace, tracker: Tracker, runs: Sequence[RunRecord]) -> tuple[Decision, str]:
    """Register the best run, and move the champion alias where the rule says so.

    Gives the decision and the champion's run.
    """
    registry = Registry(tracker)
    candidate = deployed(space, best(candidates(runs)), runs)
    held = registry.champion(space.model_name)
    champion = Candidate.from_tags(held.run_id, held.tags) if held else None
    decision = decide(candidate, champion)
    make = registry.promote if decision.promote else registry.register
    make(space.model_name, candidate.run_id, tags=candidate.as_tags())
    return decision, candidate.run_id if decision.promote or champion is None else champion.run_id


def deployed(space: SearchSpace, chosen: Candidate, runs: Sequence[RunRecord]) -> Candidate:
    """The chosen configuration with the run whose bundle deploys.

    That is its best run on val. Where the protocol trains again, it is the run of the first final seed that came to
    its end: there is no val to choose a seed by, and test must not.

    Raises:
        TrackingError: it was trained again, and every seed failed.
    """
    if not find_protocol(space.protocol).trains_again:
        return chosen
    finals = {
        run.trial.train.seed: run
        for run in runs
        if run.final and run.outcome == "completed"
        if run.trial.config_id == chosen.config_id
    }
    for seed in space.final_seeds:
        if seed in finals:
            return replace(chosen, run_id=finals[seed].run_id)
    raise TrackingError(
        "the chosen configuration was trained again, and every seed failed; see the runs' `error` tags in the MLflow "
        "UI, and go on with --resume"
    )


def candidates(runs: Sequence[RunRecord]) -> list[Candidate]:
    """One candidate for each configuration: its val is the mean over seeds, its run the seed that did best."""
    by_config: dict[str, list[RunRecord]] = {}
    for run in completed(runs):
        by_config.setdefault(run.trial.config_id, []).append(run)
    return [_candidate(seeds) for seeds in by_config.values()]


def completed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The search's runs that came to their end with a val accuracy.

    Raises:
        TrackingError: there is none.
    """
    found = [run for run in runs if not run.final and run.outcome == "completed" and VAL in run.metrics]
    if not found:
        raise TrackingError("no trial of this search ran to its end; see the runs' `error` tags in the MLflow UI")
    return found


def _candidate(seeds: Sequence[RunRecord]) -> Candidate:
    shown = max(seeds, key=lambda run: (run.metrics[VAL], -run.trial.train.seed))
    return Candidate(
        run_id=shown.run_id,
        config_id=shown.trial.config_id,
        val=fmean(run.metrics[VAL] for run in seeds),
        trainable_params=int(shown.metrics["trainable_params"]),
        protocol=shown.trial.protocol,
        data_fingerprint=shown.trial.data_fingerprint,
        backbone_fingerprint=shown.trial.backbone_fingerprint,
    )
