"""How a Ray Train worker group is run while cohorts come and go: in the service, and in each of its workers."""

from functools import partial
from typing import Any

import ray

from pipelines.cohorts.worker_group import WorkerGroup

MAX_FAILURES = 3
# Workers wait for each other as long as their group waits for a cohort; Ray Train itself sees who dies.
PATIENCE_S = 7 * 24 * 3600


def run_group(group: WorkerGroup, name: str, service: Any) -> None:
    """Train cohorts until the service has no more for this group; a killed worker is replaced.

    Raises whatever made the group fail more often than it may.
    """
    import ray.train

    from pipelines.cohorts.lean_trainer import LeanTrainer

    layout = group.layout
    gpus = {"GPU": float(layout.gpus_per_worker)} if layout.gpus_per_worker else {}
    LeanTrainer(
        train_worker,
        check_wanted=partial(_check_wanted, service, name),
        local=group.local,
        timeout_s=PATIENCE_S,
        train_loop_config={"group": name, "service": service},
        scaling_config=ray.train.ScalingConfig(
            num_workers=layout.num_workers,
            use_gpu=layout.gpus_per_worker > 0,
            resources_per_worker={"CPU": float(layout.cpus_per_worker), **gpus},
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=group.storage,
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    ).fit()


def free_what_was_left(group: WorkerGroup) -> None:
    """While no group runs, give back what a killed one holds; on a cluster Ray Train's own cleaner does it."""
    if not group.local:
        return
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    for key, placed in placement_group_table().items():
        # Trials' own groups take memory alone.
        holds = any("CPU" in bundle for bundle in placed["bundles"].values())
        if holds and placed["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))


def train_worker(config: dict[str, Any]) -> None:
    """The entry point of every worker of a group; its imports are the workers' alone, and take seconds.

    A group may start before its search is known: the service tells it what to train once that is.
    """
    from pipelines.cohorts.job import CohortJob
    from pipelines.cohorts.worker import Worker

    service, group = config["service"], config["group"]
    shared = ray.get(service.shared.remote(group))
    if shared is None:
        return
    worker = Worker(service, group, shared)
    while (work := worker.told(lambda: ray.get(service.work.remote(group)))) is not None:
        worker.forget()
        CohortJob(worker, work).run()


def _check_wanted(service: Any, group: str) -> None:
    """Raise unless the service runs this group: one that was lost and started again does not."""
    if not ray.get(service.runs.remote(group)):
        raise RuntimeError(f"the cohort service does not run {group}; it was started again")
