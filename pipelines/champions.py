"""From a search's runs to its champion: who is a candidate, whose test is read, and who is promoted."""

from collections.abc import Sequence
from statistics import fmean

from pipelines.plan import Prepared
from pipelines.promotion import Candidate, Decision, best, decide
from pipelines.registry import Registry
from pipelines.tracking import RunRecord, Tracker
from search_spaces.space import SearchSpace
from utuning.errors import TrackingError

VAL = "val/accuracy"


def finalists(ready: Prepared, runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs whose test is still to be read: the best configuration's and the baselines', all their seeds."""
    chosen = {best(candidates(runs)).config_id}
    chosen |= {trial.config_id for trial in ready.space.baseline_trials(ready.facts)}
    return [run for run in completed(runs) if run.trial.config_id in chosen and "test/accuracy" not in run.metrics]


def promote(space: SearchSpace, tracker: Tracker, runs: Sequence[RunRecord]) -> tuple[Decision, str]:
    """Register the best run, and move the champion alias where the rule says so.

    Gives the decision and the champion's run.
    """
    registry = Registry(tracker)
    candidate = best(candidates(runs))
    held = registry.champion(space.model_name)
    champion = Candidate.from_tags(held.run_id, held.tags) if held else None
    decision = decide(candidate, champion)
    make = registry.promote if decision.promote else registry.register
    make(space.model_name, candidate.run_id, tags=candidate.as_tags())
    return decision, candidate.run_id if decision.promote or champion is None else champion.run_id


def candidates(runs: Sequence[RunRecord]) -> list[Candidate]:
    """One candidate for each configuration: its val is the mean over seeds, its run the seed that did best."""
    by_config: dict[str, list[RunRecord]] = {}
    for run in completed(runs):
        by_config.setdefault(run.trial.config_id, []).append(run)
    return [_candidate(seeds) for seeds in by_config.values()]


def completed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that came to their end with a val accuracy.

    Raises:
        TrackingError: there is none.
    """
    found = [run for run in runs if run.outcome == "completed" and VAL in run.metrics]
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
