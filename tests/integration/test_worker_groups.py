"""A real worker group of two workers that takes cohorts of several keys, one after another."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.profile import Layout
from pipelines.cohorts.roster import ERROR, Report
from pipelines.cohorts.service import cohort_service
from pipelines.cohorts.session import LOCAL_ENVIRONMENT
from pipelines.cohorts.shared import Shared
from pipelines.cohorts.worker_group import WorkerGroup
from pipelines.data.datasets import searched_splits
from pipelines.planning.plan import Prepared, prepare_search
from pipelines.workspace import Workspace
from search_spaces.loader import load_space
from tests.e2e.test_interruptions import descendants
from tests.e2e.tools import draw_images, write_space
from utuning.configs import TrialConfig

NUM_WORKERS = 2
EPOCHS = 3
SAME = ("train/loss", "val/loss", "val/accuracy", "epoch", "trainable_params", "cohort_members")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Its baselines: an adapter, and full fine-tuning in batches of another size."""
    folder = tmp_path_factory.mktemp("groups")
    adapter: dict[str, Any] = {"method": "p_adapter", "ops": ["attn", "mlp"], "bottleneck_dim": 4}
    space = write_space(
        folder / "groups.yaml",
        draw_images(folder / "images"),
        baselines=[
            {"tuners": [adapter], "train": {"lr": 5e-3, "epochs": EPOCHS}},
            {"tuners": [{"method": "full"}], "train": {"lr": 1e-2, "epochs": 1, "batch_size": 4}},
        ],
        budget={"num_trials": 0},
    )
    return prepare_search(load_space(str(space)), Workspace(folder / "runs"))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in LOCAL_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    ray.init(address="local", num_cpus=NUM_WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        with cohort_service(isolated=False) as service:
            yield service
    finally:
        ray.shutdown()


def share(ready: Prepared, folder: Path) -> Shared:
    state = ready.backbone.trunk.model.state_dict()
    layout = Layout(num_cohorts=1, num_workers=NUM_WORKERS, cpus_per_worker=1, gpus_per_worker=0)
    return Shared(
        group=WorkerGroup(layout, str(folder / "groups"), local=True),
        splits={split: ray.put(given) for split, given in searched_splits(ready.dataset).items()},
        backbone_state=ray.put({name: value.numpy() for name, value in state.items()}),
        backbone=ready.space.backbone,
        class_names=ready.dataset.class_names,
        versions={},
        max_members=2,
        storage=str(folder),
        cache=str(folder / "states"),
        cache_bytes=10**9,
    )


def workers() -> set[int]:
    return set(descendants(os.getpid(), "RayTrainWorker"))


def test_one_group_takes_every_cohort_and_none_leaves_a_trace(ready: Prepared, service: Any, tmp_path: Path) -> None:
    adapter, full = ready.space.baseline_trials(ready.facts)
    assert adapter.cohort_key != full.cohort_key

    def epoch(member: str, trial: TrialConfig, number: int) -> Report:
        """An epoch's report, asked for as a trial's process does."""
        found: Report = ray.get(service.next_epoch.remote(member, member, trial.as_dict(), number - 1, None))
        assert found.get("epoch") == number, found.get(ERROR)
        return found

    ray.get(service.open.remote(share(ready, tmp_path)))
    fresh = [epoch("fresh", adapter, number) for number in range(1, EPOCHS + 1)]
    processes = workers()
    assert len(processes) == NUM_WORKERS

    other = epoch("other", full, 1)
    again = [epoch("again", adapter, number) for number in range(1, EPOCHS)]
    assert workers() == processes
    # Of the group's third cohort a worker dies: its member goes on from its last epoch.
    os.kill(min(processes), signal.SIGKILL)
    again.append(epoch("again", adapter, EPOCHS))
    assert workers().isdisjoint(processes)

    everything = [*fresh, other, *again]
    assert len({each["group"] for each in everything}) == 1
    assert [len({each["cohort"] for each in some}) for some in (fresh, again, everything)] == [1, 1, 3]
    for first, second in zip(fresh, again, strict=True):
        assert {key: first[key] for key in SAME} == {key: second[key] for key in SAME}
    assert other["trainable_params"] > sum(p.numel() for p in ready.backbone.trunk.model.parameters())
