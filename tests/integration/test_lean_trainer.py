"""When Ray Train's controller of a group may start workers."""

import subprocess
import sys

import pytest
from ray.train import ScalingConfig

from pipelines.cohorts.lean_trainer import HomePolicy, WantedPolicy


@pytest.mark.parametrize("policy", [WantedPolicy, HomePolicy])
def test_no_workers_are_started_that_nobody_waits_for(policy: type[WantedPolicy]) -> None:
    def gone() -> None:
        raise RuntimeError("it was started again")

    with pytest.raises(RuntimeError, match="started again"):
        policy(ScalingConfig(num_workers=2), gone).make_decision_for_non_running_worker_group()


def test_at_home_workers_are_started_without_asking_for_machines() -> None:
    policy = HomePolicy(ScalingConfig(num_workers=2), lambda: None)
    policy.after_controller_start(None)  # Ray Train's own would want an actor, and there is no Ray here
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_neither_the_service_nor_a_controller_waits_for_torch() -> None:
    modules = "pipelines.cohorts.service, pipelines.cohorts.group_run, pipelines.cohorts.lean_trainer"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
