"""A search from its space to its champion: prepare, plan, tune, measure, promote."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.profile import Profile
from pipelines import provenance
from pipelines.board import Board
from pipelines.champions import finalists, promote
from pipelines.leaderboard import Row, rows
from pipelines.plan import Prepared, num_trials
from pipelines.promotion import Decision
from pipelines.session import Resources, ray_session
from pipelines.tracking import RunRecord, Tracker
from pipelines.workspace import Workspace
from search_spaces.space import Facts, SearchSpace
from utuning.configs import TrialConfig, digest
from utuning.data.shards import read_split

# A supervising trial process takes memory, not a CPU: all CPUs are for the workers.
SUPERVISOR_MEMORY = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search gives back."""

    search_id: str
    rows: Sequence[Row]
    decision: Decision
    champion_run_id: str
    seconds: float


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
        # Ray reads its environment when it is imported, and the session sets that first.
        from pipelines.finals import measure_test

        profile.concurrent_trials(resources.cpus, resources.gpus)
        tags = _tags(ready)
        parent = tracker.start_search(ready.space.name, search_id=search_id, params=_params(ready), tags=tags)
        storage = profile.storage or str(workspace.search(search_id))
        shared = _share(ready, profile)
        try:
            _tune(ready, profile, resources, tracker, parent, tags, search_id, shared, storage)
            done = _search_runs(tracker, ready.space, search_id)
            if still := finalists(ready, done):
                gpus = profile.gpus(resources.gpus)
                measure_test(tracker, still, shared, ready.dataset, cpus=profile.cpus_per_worker, gpus=gpus)
        except BaseException:
            tracker.finish_search(parent, "KILLED", {}, {})
            raise
    decision, champion_run_id = promote(ready.space, tracker, done)
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
    tags: dict[str, str],
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
        local=profile.address is None,
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
                callbacks=[Recorder(tracker, parent, tags, board, storage)],
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
    return [*space.baseline_trials(facts), *space.probing_trials(facts)]


def _search_runs(tracker: Tracker, space: SearchSpace, search_id: str) -> list[RunRecord]:
    return [run for run in tracker.runs(space.name) if run.search_id == search_id]


def _final_metrics(runs: Sequence[RunRecord], metric: str) -> dict[str, float]:
    over = [run for run in runs if run.outcome in ("completed", "stopped") and metric in run.metrics]
    return {run.trial.trial_id: run.metrics[metric] for run in over}
