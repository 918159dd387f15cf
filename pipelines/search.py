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
from pipelines.layouts import layout_of
from pipelines.leaderboard import Row, rows
from pipelines.plan import Prepared, num_trials, planned_trials, space_digest
from pipelines.promotion import Decision
from pipelines.schedulers import make_scheduler
from pipelines.session import ray_session
from pipelines.tracking import RunRecord, Tracker
from pipelines.workspace import Workspace
from search_spaces.space import SearchSpace
from utuning.data.shards import read_split

# A trial's process takes memory, not a CPU: all CPUs are for the cohorts' workers.
TRIAL_MEMORY = 100_000_000
# A process or a worker group that is lost is started again; a member that failed by itself is not.
MAX_TRIAL_FAILURES = 2


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search gives back."""

    search_id: str
    rows: Sequence[Row]
    decision: Decision
    champion_run_id: str
    seconds: float


def run_search(
    ready: Prepared,
    *,
    profile: Profile,
    workspace: Workspace,
    tracking_uri: str | None = None,
    resume: bool = False,
    isolated: bool = False,
) -> Finished:
    """Run a search, or go on with the last one of this space that was cut off.

    Finished trials are not run again and no MLflow run is doubled. `isolated` gives each trial a worker group of its
    own, started for it: the same results at a higher price.

    Raises:
        ClusterError, TrackingError: a cluster or store that cannot be used; finished trials are kept.
    """
    started = time.monotonic()
    tracker = Tracker.open(tracking_uri or workspace.tracking_uri, workspace.artifacts)
    search_id = _search_id(ready, tracker, resume)
    with ray_session(profile) as resources:
        # Ray reads its environment when it is imported, and the session sets that first.
        from pipelines.finals import measure_test
        from pipelines.service import cohort_service
        from pipelines.worker_group import WorkerGroup

        layout = layout_of(ready, profile, resources.cpus, resources.gpus, isolated=isolated)
        tags = _tags(ready)
        parent = tracker.start_search(ready.space.name, search_id=search_id, params=_params(ready), tags=tags)
        storage = profile.storage or str(workspace.search(search_id))
        shared = _share(ready, profile, workspace, storage)
        try:
            group = WorkerGroup(layout=layout, storage=storage, local=profile.address is None, shared=shared)
            seats = 1 if isolated else profile.max_members
            with cohort_service(group, search_id, max_members=seats, isolated=isolated) as service:
                _tune(ready, layout.num_cohorts * seats, tracker, parent, tags, search_id, service, group)
            done = _search_runs(tracker, ready.space, search_id)
            if still := finalists(ready, done):
                measure_test(tracker, still, ready, shared, layout, local=profile.address is None)
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
        return tracker.unfinished_search(ready.space.name, space_digest(ready))
    return f"{ready.space.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


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
        "space_digest": space_digest(ready),
        **{f"version.{name}": version for name, version in provenance.versions().items()},
        **{f"machine.{name}": value for name, value in provenance.machine().items()},
    }


def _share(ready: Prepared, profile: Profile, workspace: Workspace, storage: str) -> Any:
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
        members=f"{storage}/members",
        cache=profile.cache or str(workspace.states),
        cache_bytes=profile.cache_gb * 10**9,
    )


def _tune(
    ready: Prepared,
    max_concurrent: int,
    tracker: Tracker,
    parent: str,
    tags: dict[str, str],
    search_id: str,
    service: Any,
    group: Any,
) -> None:
    from ray import tune

    from pipelines.progress import ProgressStore
    from pipelines.recorder import Recorder
    from pipelines.searcher import SpaceSearcher
    from pipelines.trial import Trial

    space = ready.space
    done = _final_metrics(_search_runs(tracker, space, search_id), space.metric)
    if first := next((trial for trial in planned_trials(ready) if trial.trial_id not in done), None):
        service.warm.remote(first.as_dict())
    searcher = SpaceSearcher(space, ready.facts, done)
    searched = space.budget.scheduler != "pbt"  # Tune's PBT refuses searchers
    with Board(title=f"search {search_id}", num_trials=num_trials(space)) as board:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(Trial, service=service), {"memory": TRIAL_MEMORY}),
            param_space={} if searched else {"case": tune.grid_search([each["case"] for each in searcher.all()])},
            tune_config=tune.TuneConfig(
                num_samples=num_trials(space) - len(done) if searched else 1,
                search_alg=searcher if searched else None,
                scheduler=make_scheduler(space),
                metric=space.metric,
                mode="max" if space.maximise else "min",
                reuse_actors=True,
                max_concurrent_trials=max_concurrent,
                trial_name_creator=lambda trial: trial.config["case"]["name"],
                trial_dirname_creator=lambda trial: trial.config["case"]["id"],
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=group.storage,
                verbose=0,
                callbacks=[Recorder(tracker, parent, tags, board, ProgressStore(group.shared.members), service)],
                failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
            ),
        ).fit()


def _search_runs(tracker: Tracker, space: SearchSpace, search_id: str) -> list[RunRecord]:
    return [run for run in tracker.runs(space.name) if run.search_id == search_id]


def _final_metrics(runs: Sequence[RunRecord], metric: str) -> dict[str, float]:
    over = [run for run in runs if run.outcome in ("completed", "stopped") and metric in run.metrics]
    return {run.trial.trial_id: run.metrics[metric] for run in over}
