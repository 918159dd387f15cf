"""A search from its space to its champion: prepare, plan, tune, measure, promote."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipelines import provenance
from pipelines.cohorts.crew import Crew, storage_of
from pipelines.cohorts.progress import ProgressStore
from pipelines.cohorts.spared import Tally
from pipelines.data.datasets import searched_splits
from pipelines.planning.forecast import remembered
from pipelines.planning.plan import Prepared, space_digest
from pipelines.registry.promotion import Decision
from pipelines.results.leaderboard import Row, rows
from pipelines.search.board import Board
from pipelines.search.champions import finalists, promote, untrained
from pipelines.search.history import remember_data, remember_start
from pipelines.search.schedulers import going_on, make_scheduler
from pipelines.tracking.data_tags import data_tags
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.cohorts.shared import Shared
    from pipelines.search.recorder import Recorder


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search gives back.

    `predicted` is what was planned of it: `seconds`, and `peak_bytes` of a worker; empty if nobody asked. `peak_bytes`
    is the most that a worker had.
    """

    search_id: str
    rows: Sequence[Row]
    decision: Decision
    champion_run_id: str
    seconds: float
    spared: Tally
    peak_bytes: float
    predicted: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Ongoing:
    """A search that has begun: what its trials and its finals have in common."""

    search_id: str
    ready: Prepared
    crew: Crew
    shared: "Shared"
    tracker: Tracker
    parent: str
    tags: Mapping[str, str]
    spared: Tally

    @property
    def store(self) -> ProgressStore:
        """Its members' saved epochs."""
        return ProgressStore(self.shared.members)

    def runs(self) -> list[RunRecord]:
        """The runs of its trials and finals so far."""
        return [run for run in self.tracker.runs(self.ready.space.name) if run.search_id == self.search_id]

    def recorder(self, board: Board, **more: Any) -> "Recorder":
        """What keeps its runs; `more` are further arguments of it."""
        from pipelines.search.recorder import Recorder

        return Recorder(
            self.tracker, self.parent, self.tags, board, self.store, self.crew.service, spared=self.spared, **more
        )


def run_search(
    ready: Prepared,
    crew_when_ready: Callable[[], Crew],
    *,
    workspace: Workspace,
    tracking_uri: str | None = None,
    resume: bool = False,
) -> Finished:
    """Run a search, or go on with the last one of this space that was cut off.

    Finished trials are not run again and no MLflow run is doubled.

    Raises:
        ClusterError, TrackingError: a cluster or store that cannot be used; finished trials are kept.
    """
    tracker = Tracker.of(workspace, tracking_uri)
    search_id = _search_id(ready, tracker, resume)
    crew, tags = crew_when_ready(), _tags(ready)
    # Ray reads its environment when it is imported, and the crew sets that first.
    from pipelines.search.finals import measure_test

    parent = tracker.start_search(ready.space.name, search_id=search_id, params=_params(ready), tags=tags)
    remember_start(tracker, parent, ready.warm)
    search = Ongoing(
        search_id=search_id,
        ready=ready,
        crew=crew,
        shared=_share(ready, crew, workspace, search_id),
        tracker=tracker,
        parent=parent,
        tags=tags,
        spared=_tally(crew),
    )
    try:
        _tune(search)
        _train_finals(search)
        crew.close()
        done = search.runs()
        if still := finalists(ready, done):
            measure_test(tracker, still, ready, search.shared)
        decision, champion_run_id = promote(ready.space, tracker, done)
        # Now, since a large backbone takes a while for it, and nothing waits for it any more.
        remember_data(tracker, parent, ready, workspace)
    except BaseException:
        tracker.finish_search(parent, "KILLED", {}, {})
        raise
    found = rows(tracker.runs(ready.space.name), champion_run_id=champion_run_id, search_id=search_id)
    seconds, predicted = time.monotonic() - crew.begun, _predicted(ready, workspace, isolated=crew.isolated)
    planned = {f"predicted_{name}": value for name, value in predicted.items()}
    spared = search.spared
    metrics = {"spared_time_s": spared.seconds, "spared_groups": float(spared.groups), **planned}
    tracker.finish_search(parent, "FINISHED", {"search_time_s": seconds, **metrics}, {"outcome": "completed"})
    return Finished(
        search_id=search_id,
        rows=found,
        decision=decision,
        champion_run_id=champion_run_id,
        seconds=seconds,
        spared=spared,
        peak_bytes=max((run.metrics.get("peak_memory_bytes", 0.0) for run in done), default=0.0),
        predicted=predicted,
    )


def _predicted(ready: Prepared, workspace: Workspace, *, isolated: bool) -> dict[str, float]:
    """What was planned of this search; of isolated trials' memory nothing is."""
    known = remembered(workspace.prediction(space_digest(ready)))
    together = {"seconds": "seconds", "peak_bytes": "peak_bytes_per_worker"}
    names = {"seconds": "seconds_isolated"} if isolated else together
    return {name: known[planned] for name, planned in names.items() if planned in known}


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
        "backbone_weights": ready.space.backbone.weights,
        "space_digest": space_digest(ready),
        **data_tags(ready.dataset, ready.notes),
        **{f"version.{name}": version for name, version in provenance.versions().items()},
        **{f"machine.{name}": value for name, value in provenance.machine().items()},
    }


def _share(ready: Prepared, crew: Crew, workspace: Workspace, search_id: str) -> "Shared":
    """Put the data and the backbone where every worker of the cluster can read them."""
    import ray

    from pipelines.cohorts.shared import Shared

    profile = crew.profile
    # Nothing was planned, or planned for another machine: memory that runs out halves a cohort, it does not end it.
    fit = int(remembered(workspace.prediction(space_digest(ready))).get("members_per_cohort", profile.max_members))
    state = {name: value.cpu().numpy() for name, value in ready.backbone.trunk.model.state_dict().items()}
    return Shared(
        group=crew.group,
        splits={split: ray.put(given) for split, given in searched_splits(ready.dataset).items()},
        backbone_state=ray.put(state),
        backbone=ready.space.backbone,
        class_names=ready.dataset.class_names,
        versions=provenance.versions(),
        max_members=1 if crew.isolated else min(profile.max_members, fit),
        storage=f"{storage_of(profile, workspace)}/{search_id}",
        cache=profile.cache or str(workspace.states),
        cache_bytes=profile.cache_gb * 10**9,
    )


def _tune(search: Ongoing) -> None:
    """Run the trials, and count what their cohorts spare."""
    from pipelines.search.running import run_trials
    from pipelines.search.searcher import SpaceSearcher

    ready, space, store = search.ready, search.ready.space, search.store
    done = _final_metrics(search.runs(), space.metric)
    searcher = SpaceSearcher(space, ready.facts, done, ready.picked)
    if len(done) >= space.num_trials:
        return
    searched = space.budget.scheduler != "pbt"  # Tune's PBT refuses searchers
    cases, began_as = ([], {}) if searched else going_on(searcher.all(), store)
    with Board(title=f"search {search.search_id}", num_trials=space.num_trials) as board:
        run_trials(
            search.crew,
            search.shared,
            search.recorder(board, reasons=ready.reasons, began_as=began_as),
            "tune",
            cases,
            num_samples=space.num_trials - len(done) if searched else 1,
            search_alg=searcher if searched else None,
            scheduler=make_scheduler(space),
            metric=space.metric,
            mode="max" if space.maximise else "min",
        )


def _train_finals(search: Ongoing) -> None:
    """Train what the finals need and the search has not trained, and count what cohorts spare."""
    from pipelines.search.running import run_trials
    from pipelines.search.searcher import tune_config

    trials = untrained(search.ready, search.runs())
    if not trials:
        return
    # Seeds have cohorts of their own: those of the next one wait without processes until there is room.
    side_by_side = search.crew.group.layout.num_cohorts * len({trial.config_id for trial in trials})
    cases = [tune_config(trial)["case"] for trial in trials]
    with Board(title=f"finals {search.search_id}", num_trials=len(trials)) as board:
        recorder = search.recorder(board, kind="final")
        run_trials(search.crew, search.shared, recorder, "finals", cases, max_concurrent_trials=side_by_side)


def _tally(crew: Crew) -> Tally:
    """Isolated trials would have a worker each, as many at a time as cohorts have workers."""
    return Tally(side_by_side=crew.group.layout.num_cohorts * crew.group.layout.num_workers)


def _final_metrics(runs: Sequence[RunRecord], metric: str) -> dict[str, float]:
    """The metric of each trial that is over, by the id that it began with."""
    over = [run for run in runs if not run.final and run.outcome in ("completed", "stopped") and metric in run.metrics]
    return {run.began_as: run.metrics[metric] for run in over}
