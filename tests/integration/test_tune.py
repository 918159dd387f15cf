"""Schedulers and searchers through Tune itself: what they decide reaches the members, and trials need no torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.profile import Layout, load_profile
from pipelines.cohorts.crew import Crew
from pipelines.cohorts.progress import ProgressStore
from pipelines.cohorts.session import ray_session
from pipelines.cohorts.shared import Shared
from pipelines.cohorts.worker_group import WorkerGroup
from pipelines.search import running
from pipelines.search.board import Board
from pipelines.search.recorder import Recorder
from pipelines.search.running import run_trials
from pipelines.search.schedulers import going_on, make_scheduler
from pipelines.search.searcher import SpaceSearcher
from pipelines.tracking.tracker import RunRecord, Tracker
from search_spaces.loader import check_space
from search_spaces.space import Facts, SearchSpace
from tests.learning import TRAINED, LearningService, WatchedTrial
from utuning.configs import BackboneConfig, TrialConfig

FACTS = Facts(data_fingerprint="d", num_classes=5, backbone_fingerprint="b")
NUM_TRIALS, EPOCHS, SEATS = 6, 6, 4
LAYOUT = Layout(num_cohorts=1, num_workers=1, cpus_per_worker=1, gpus_per_worker=0)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(load_profile("local")):
        yield


@dataclass
class Scene:
    """A search of one space, without a network."""

    name: str
    space: SearchSpace
    folder: Path
    tracker: Tracker

    def run(self, recorder: type[Recorder] = Recorder, seats: int = SEATS) -> dict[str, Any]:
        """Run what is left of it; gives what the service saw."""
        shared = self.shared(seats)
        service = ray.remote(num_cpus=0, max_concurrency=100)(LearningService).remote(shared.members)
        crew = Crew(service=service, group=shared.group, profile=load_profile("local"), isolated=False, begun=0.0)
        searcher = SpaceSearcher(self.space, FACTS, {})
        parent = self.tracker.start_search(self.name, search_id=self.name, params={}, tags={})
        population = self.space.budget.scheduler == "pbt"
        store = ProgressStore(shared.members)
        cases, began_as = going_on(searcher.all(), store) if population else ([], {})
        board = Board(title=self.name, num_trials=NUM_TRIALS)
        run_trials(
            crew,
            shared,
            recorder(self.tracker, parent, {}, board, store, service, began_as=began_as),
            "tune",
            cases,
            num_samples=1 if population else NUM_TRIALS,
            search_alg=None if population else searcher,
            scheduler=make_scheduler(self.space),
            metric="val/accuracy",
            mode="max",
        )
        return ray.get(service.seen.remote())

    def shared(self, seats: int = SEATS) -> Shared:
        return Shared(
            group=WorkerGroup(LAYOUT, str(self.folder / "groups"), True),
            splits={},
            backbone_state=ray.put(None),
            backbone=BackboneConfig(name="none"),
            class_names=(),
            versions={},
            max_members=seats,
            storage=str(self.folder),
            cache="",
            cache_bytes=0,
        )

    def records(self) -> list[RunRecord]:
        return self.tracker.runs(self.name)

    def epochs(self, run: RunRecord) -> list[int]:
        return [each.step for each in self.tracker.client.get_metric_history(run.run_id, "val/accuracy")]


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path, embedded: Tracker, monkeypatch: pytest.MonkeyPatch) -> Scene:
    scheduler, searcher = request.param
    name = f"tuned-{scheduler}-{searcher}"
    values = {
        "name": name,
        "dataset": {"name": "tiny", "source": "folder", "path": "images"},
        "backbone": {"name": "vit_tiny_patch16_224", "weights": "none"},
        "train": {"lr": {"loguniform": [1e-3, 1e-1]}, "epochs": EPOCHS},
        "tuners": [{"method": "p_adapter", "ops": ["attn"], "bottleneck_dim": {"choice": [2, 4, 8]}}],
        "budget": {"num_trials": NUM_TRIALS, "scheduler": scheduler, "searcher": searcher, "grace_epochs": 1},
    }
    monkeypatch.setattr(running, "Trial", WatchedTrial)
    return Scene(name, check_space(values, "tiny"), tmp_path, embedded)


@pytest.mark.parametrize("scene", [("asha", "optuna"), ("median", "random")], indirect=True, ids=str)
def test_a_scheduler_stops_the_worse_and_the_next_suggestion_takes_the_seat(scene: Scene) -> None:
    seen = scene.run()
    records = sorted(scene.records(), key=lambda run: run.trial.train.lr)
    assert len({run.trial.trial_id for run in records}) == len(records) == NUM_TRIALS
    assert {run.outcome for run in records} == {"completed", "stopped"}
    assert records[-1].outcome == "completed", "who learns fastest is stopped by nobody"
    for run in records:
        last = int(run.metrics["epoch"])
        assert scene.epochs(run) == [*range(1, last + 1)]
        assert (last == EPOCHS) == (run.outcome == "completed")
        assert run.metrics["val/accuracy"] == pytest.approx(last * run.trial.train.lr)
    # Median stopping pauses trials: they come again.
    assert len({joined["member_id"] for joined in seen["begun"]}) == NUM_TRIALS > SEATS and seen["num_seats"] == 0
    assert len({joined["seat"] for joined in seen["begun"]}) >= NUM_TRIALS
    assert seen["with_torch"] and not any(seen["with_torch"])


class DiesInEpochFour(Recorder):
    """The driver is lost once a trial has come so far."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        super().on_trial_result(iteration, trials, trial, result, **info)
        if result["epoch"] == 4:
            raise ConnectionError("the driver is lost")


def copies(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that began with another member's epoch."""
    return [each for each in seen["begun"] if each["path"] and Path(each["path"]).parent.name != each["member_id"]]


@pytest.mark.parametrize("scene", [("pbt", "random")], indirect=True, ids=str)
def test_a_population_goes_on_from_its_best_also_after_a_lost_driver(scene: Scene) -> None:
    with pytest.raises(Exception, match="the driver is lost"):
        scene.run(DiesInEpochFour, seats=NUM_TRIALS)
    store = ProgressStore(scene.shared().members)
    left = {run.run_id: (run.trial, store.latest(member_of(store, scene, run))) for run in scene.records()}
    assert any("goes_on_as" in tags(scene, run) for run in scene.records())

    seen = scene.run(seats=NUM_TRIALS)
    records = scene.records()
    assert {run.run_id for run in records} == left.keys() and len(records) == NUM_TRIALS
    assert {run.outcome for run in records} == {"completed"}
    began = {each["member_id"]: each["epoch"] for each in reversed(seen["begun"])}
    for run in records:
        assert len(scene.epochs(run)) == len(set(scene.epochs(run))) and run.metrics["epoch"] == EPOCHS
        trial, latest = left[run.run_id]
        member_id = Path(latest["checkpoint_path"]).parent.name if latest else trial.trial_id
        assert member_id not in began or began[member_id] == (latest["epoch"] if latest else 0)
        assert trained(scene, run) == run.trial, "a run's configuration is that of its bundle"
    for each in copies(seen):
        assert each["epoch"] > 0 and each["accuracy"] > 0


def tags(scene: Scene, run: RunRecord) -> dict[str, str]:
    return dict(scene.tracker.run(run.run_id).data.tags)


def member_of(store: ProgressStore, scene: Scene, run: RunRecord) -> str:
    first = tags(scene, run)["trial_id"]
    return (store.became(first) or {"id": first})["id"]


def trained(scene: Scene, run: RunRecord) -> TrialConfig:
    """What the run's bundle says that was trained."""
    folder = scene.folder / "bundles" / run.run_id
    folder.mkdir(parents=True)
    file = scene.tracker.client.download_artifacts(run.run_id, f"bundle/{TRAINED}", str(folder))
    return TrialConfig.from_dict(json.loads(Path(file).read_text()))
