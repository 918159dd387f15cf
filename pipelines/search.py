"""A search from its space to its champion: prepare, plan, tune, measure, promote."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from cluster.profile import Profile
from pipelines import provenance
from pipelines.board import Board
from pipelines.datasets import prepared
from pipelines.leaderboard import Row, rows
from pipelines.promotion import Candidate, Decision, best, decide
from pipelines.registry import Registry
from pipelines.session import Resources, ray_session
from pipelines.tracking import RunRecord, Tracker
from pipelines.workspace import Workspace
from search_spaces.space import Facts, SearchSpace
from utuning.backbone import Backbone
from utuning.configs import TrialConfig, digest
from utuning.data.shards import DatasetInfo, read_split
from utuning.data.space import require_space
from utuning.errors import TrackingError
from utuning.member import Member

# Bundles, checkpoints and Ray's own state of a small search; large backbones add their own below.
MIN_FREE_BYTES = 500_000_000
# A supervising trial process takes memory, not a CPU: all CPUs are for the workers.
SUPERVISOR_MEMORY = 100_000_000
VAL = "val/accuracy"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that is known before a cluster is asked for anything."""

    space: SearchSpace
    dataset: DatasetInfo
    backbone: Backbone
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search gives back."""

    search_id: str
    rows: Sequence[Row]
    decision: Decision
    champion_run_id: str
    seconds: float


def prepare_search(space: SearchSpace, workspace: Workspace) -> Prepared:
    """Prepare the data, load the backbone, and check that every configuration of the space can be built.

    Raises:
        DataError, BackboneError, PlacementError, ConfigError: what cannot be used, before any work starts.
    """
    require_space(workspace.root, MIN_FREE_BYTES)
    dataset = prepared(space.dataset, workspace)
    backbone = Backbone.from_config(space.backbone)
    facts = Facts(
        data_fingerprint=dataset.fingerprint,
        num_classes=len(dataset.class_names),
        backbone_fingerprint=backbone.fingerprint,
    )
    ready = Prepared(space=space, dataset=dataset, backbone=backbone, facts=facts)
    for trial in probing_trials(ready):
        build_member(ready, trial)
    return ready


def probing_trials(ready: Prepared) -> list[TrialConfig]:
    """The baselines, and trials that between them take every listed value and every end of an interval."""
    space = ready.space
    domains = space.domains
    first = {path: domain.probes()[0] for path, domain in domains.items()}
    choices = [first] + [{**first, path: value} for path, domain in domains.items() for value in domain.probes()[1:]]
    trials = space.baseline_trials(ready.facts) + [
        space.trial(values, space.seeds[0], ready.facts) for values in choices
    ]
    return list({trial.config_id: trial for trial in trials}.values())


def build_member(ready: Prepared, trial: TrialConfig) -> Member:
    """The member that a trial trains."""
    return Member(ready.backbone, num_classes=trial.num_classes, config=trial.train, tuners=trial.tuners)


def planned_trials(ready: Prepared) -> list[TrialConfig]:
    """The trials known before the search starts: all of a random one, the baselines of an adaptive one."""
    known = ready.space.baseline_trials(ready.facts)
    return known if ready.space.budget.searcher == "optuna" else known + ready.space.random_trials(ready.facts)


def num_trials(space: SearchSpace) -> int:
    """How many trials a search has at most."""
    return (len(space.baselines) + space.budget.num_trials) * len(space.seeds)


def run_search(
    ready: Prepared, *, profile: Profile, workspace: Workspace, tracking_uri: str | None = None, resume: bool = False
) -> Finished:
    """Run a search, or go on with the last one of this space that was cut off.

    Finished trials are not run again and no MLflow run is doubled.

    Raises:
        ClusterError, TrackingError: a cluster or store that cannot be used; finished trials are kept.
    """
    started = time.monotonic()
    tracker = Tracker.open(tracking_uri or workspace.tracking_uri, workspace.artifacts)
    search_id = _search_id(ready, tracker, resume)
    with ray_session(profile) as resources:
        profile.concurrent_trials(resources.cpus, resources.gpus)
        parent = tracker.start_search(ready.space.name, search_id=search_id, params=_params(ready), tags=_tags(ready))
        storage = profile.storage or str(workspace.search(search_id))
        shared = _share(ready, profile)
        try:
            _tune(ready, profile, resources, tracker, parent, search_id, shared, storage)
            done = _search_runs(tracker, ready.space, search_id)
            _measure_finalists(ready, tracker, done, shared, profile, resources)
        except BaseException:
            tracker.finish_search(parent, "KILLED", {}, {})
            raise
    decision, champion_run_id = _promote(ready.space, tracker, done)
    found = rows(tracker.runs(ready.space.name), champion_run_id=champion_run_id, search_id=search_id)
    seconds = time.monotonic() - started
    tracker.finish_search(parent, "FINISHED", {"search_time_s": seconds}, {"outcome": "completed"})
    return Finished(
        search_id=search_id, rows=found, decision=decision, champion_run_id=champion_run_id, seconds=seconds
    )


def _search_id(ready: Prepared, tracker: Tracker, resume: bool) -> str:
    if resume:
        return tracker.unfinished_search(ready.space.name, _space_digest(ready))
    return f"{ready.space.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def _space_digest(ready: Prepared) -> str:
    return digest({"space": asdict(ready.space), "facts": asdict(ready.facts)})


def _params(ready: Prepared) -> dict[str, Any]:
    space = ready.space
    searched = {f"space.{path}": str(domain) for path, domain in space.domains.items()}
    return {**asdict(space.budget), "seeds": list(space.seeds), "metric": space.metric, **searched}


def _tags(ready: Prepared) -> dict[str, str]:
    return {
        "commit": provenance.commit(),
        "dataset": ready.dataset.name,
        "data_fingerprint": ready.facts.data_fingerprint,
        "backbone_fingerprint": ready.facts.backbone_fingerprint,
        "space_digest": _space_digest(ready),
        **{f"version.{name}": version for name, version in provenance.versions().items()},
        **{f"machine.{name}": value for name, value in provenance.machine().items()},
    }


def _share(ready: Prepared, profile: Profile) -> Any:
    """Put the data and the backbone where every worker of the cluster can read them."""
    import ray

    from pipelines.shared import Shared

    state = {name: value.cpu().numpy() for name, value in ready.backbone.trunk.model.state_dict().items()}
    return Shared(
        tables={split: ray.put(read_split(ready.dataset, split)) for split in ("train", "val")},
        backbone_state=ray.put(state),
        backbone=ready.space.backbone,
        class_names=ready.dataset.class_names,
        versions=provenance.versions(),
        cpus_per_worker=profile.cpus_per_worker,
    )


def _tune(
    ready: Prepared,
    profile: Profile,
    resources: Resources,
    tracker: Tracker,
    parent: str,
    search_id: str,
    shared: Any,
    storage: str,
) -> None:
    from ray import tune

    from pipelines.recorder import Recorder
    from pipelines.searcher import SpaceSearcher
    from pipelines.supervisor import Group, Supervisor

    space = ready.space
    done = _final_metrics(_search_runs(tracker, space, search_id), space.metric)
    group = Group(
        num_workers=profile.num_workers,
        cpus_per_worker=profile.cpus_per_worker,
        gpus_per_worker=profile.gpus(resources.gpus),
        storage=f"{storage}/trials",
    )
    with Board(title=f"search {search_id}", num_trials=num_trials(space)) as board:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Supervisor, shared=shared, group=group), {"memory": SUPERVISOR_MEMORY}
            ),
            tune_config=tune.TuneConfig(
                num_samples=num_trials(space) - len(done),
                search_alg=SpaceSearcher(space, ready.facts, done),
                scheduler=_scheduler(space),
                metric=space.metric,
                mode="max" if space.maximise else "min",
                reuse_actors=True,
                max_concurrent_trials=profile.concurrent_trials(resources.cpus, resources.gpus),
                trial_name_creator=lambda trial: trial.config["name"],
                trial_dirname_creator=lambda trial: TrialConfig.from_dict(trial.config["trial"]).trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                verbose=0,
                callbacks=[Recorder(tracker, parent, _tags(ready), board, storage)],
                failure_config=tune.FailureConfig(max_failures=1),
            ),
        ).fit()


def _scheduler(space: SearchSpace) -> Any:
    if space.budget.scheduler == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    # An absolute epoch: Tune's own iteration counter starts anew when a trial goes on after it was cut off.
    return ASHAScheduler(
        time_attr="epoch",
        max_t=max(trial.train.epochs for trial in _epoch_probes(space)),
        grace_period=space.budget.grace_epochs,
        reduction_factor=space.budget.reduction_factor,
    )


def _epoch_probes(space: SearchSpace) -> list[TrialConfig]:
    facts = Facts(data_fingerprint="", num_classes=1, backbone_fingerprint="")
    first = {path: domain.probes()[-1] for path, domain in space.domains.items()}
    return [*space.baseline_trials(facts), space.trial(first, 0, facts)]


def _search_runs(tracker: Tracker, space: SearchSpace, search_id: str) -> list[RunRecord]:
    return [run for run in tracker.runs(space.name) if run.search_id == search_id]


def _final_metrics(runs: Sequence[RunRecord], metric: str) -> dict[str, float]:
    over = [run for run in runs if run.outcome in ("completed", "stopped") and metric in run.metrics]
    return {run.trial.trial_id: run.metrics[metric] for run in over}


def _measure_finalists(
    ready: Prepared,
    tracker: Tracker,
    runs: Sequence[RunRecord],
    shared: Any,
    profile: Profile,
    resources: Resources,
) -> None:
    """Read test once: for the best configuration and the baselines, all their seeds."""
    from pipelines.finals import measure_test

    chosen = {best(_candidates(runs)).config_id}
    chosen |= {trial.config_id for trial in ready.space.baseline_trials(ready.facts)}
    finalists = [
        run for run in _completed(runs) if run.trial.config_id in chosen and "test/accuracy" not in run.metrics
    ]
    if finalists:
        gpus = profile.gpus(resources.gpus)
        test = read_split(ready.dataset, "test")
        measure_test(tracker, finalists, shared, test, cpus=profile.cpus_per_worker, gpus=gpus)


def _promote(space: SearchSpace, tracker: Tracker, runs: Sequence[RunRecord]) -> tuple[Decision, str]:
    """Move the champion alias where the rule says so; gives the decision and the champion's run."""
    registry = Registry(tracker)
    candidate = best(_candidates(runs))
    held = registry.champion(space.model_name)
    champion = Candidate.from_tags(held.run_id, held.tags) if held else None
    decision = decide(candidate, champion)
    if decision.promote:
        registry.promote(space.model_name, candidate.run_id, tags=candidate.as_tags())
    return decision, candidate.run_id if decision.promote or champion is None else champion.run_id


def _candidates(runs: Sequence[RunRecord]) -> list[Candidate]:
    """One candidate for each configuration: its val is the mean over seeds, its run the seed that did best."""
    by_config: dict[str, list[RunRecord]] = {}
    for run in _completed(runs):
        by_config.setdefault(run.trial.config_id, []).append(run)
    return [_candidate(seeds) for seeds in by_config.values()]


def _completed(runs: Sequence[RunRecord]) -> list[RunRecord]:
    completed = [run for run in runs if run.outcome == "completed" and VAL in run.metrics]
    if not completed:
        raise TrackingError("no trial of this search ran to its end; see the runs' `error` tags in the MLflow UI")
    return completed


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
