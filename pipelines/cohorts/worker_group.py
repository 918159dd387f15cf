"""A Ray Train worker group: what it needs, and how it is run while cohorts come and go."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.profile import Layout

MAX_FAILURES = 3
# Workers wait for each other as long as their group waits for a cohort; Ray Train itself sees who dies.
PATIENCE_S = 7 * 24 * 3600


@dataclass(frozen=True)
class WorkerGroup:
    """The resources of every group of a search; `storage` is for Ray Train's own state."""

    layout: Layout
    storage: str
    local: bool

    def run(self, name: str, service: Any) -> None:
        """Train cohorts until the service has no more for this group; a killed worker is replaced.

        Raises whatever made the group fail more often than it may.
        """
        self._trainer(name, service).fit()

    def free_what_was_left(self) -> None:
        """While no group runs, give back what a killed one holds; on a cluster Ray Train's own cleaner does it."""
        if not self.local:
            return
        from ray import PlacementGroupID
        from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

        for key, group in placement_group_table().items():
            # Trials' own groups take memory alone.
            holds = any("CPU" in bundle for bundle in group["bundles"].values())
            if holds and group["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(key))))

    def _trainer(self, name: str, service: Any) -> Any:
        import ray.train

        from pipelines.cohorts.lean_trainer import LeanTrainer

        layout = self.layout
        gpus = {"GPU": float(layout.gpus_per_worker)} if layout.gpus_per_worker else {}
        return LeanTrainer(
            train_worker,
            check_wanted=partial(_check_wanted, service, name),
            local=self.local,
            timeout_s=PATIENCE_S,
            train_loop_config={"group": name, "service": service},
            scaling_config=ray.train.ScalingConfig(
                num_workers=layout.num_workers,
                use_gpu=layout.gpus_per_worker > 0,
                resources_per_worker={"CPU": float(layout.cpus_per_worker), **gpus},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=self.storage,
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )


def _check_wanted(service: Any, group: str) -> None:
    """Raise unless the service runs this group: one that was lost and started again does not."""
    import ray

    if not ray.get(service.runs.remote(group)):
        raise RuntimeError(f"the cohort service does not run {group}; it was started again")


def train_worker(config: dict[str, Any]) -> None:
    """The entry point of every worker of a group; its imports are the workers' alone, and take seconds.

    A group may start before its search is known: the service tells it what to train once that is.
    """
    import ray

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
