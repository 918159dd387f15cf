"""House rules that are tests: who imports what, which verbs there are, and which rows the tables have."""

import json
import subprocess
import sys

import pytest

from cluster.profile import Profile, load_profile
from utuning.errors import ClusterError, ConfigError
from utuning.tuners import ROWS, TUNERS, settings_of, table

HEAVY = ("torch", "ray", "mlflow", "timm", "pyarrow", "optuna", "matplotlib", "pydantic")
VERBS = {"plan", "search", "train", "leaderboard", "pull", "predict", "prepare", "doctor"}


def imported_by(statement: str) -> set[str]:
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    ["import pipelines.cli", "import utuning.configs, utuning.placement, utuning.errors", "import cluster.profile"],
)
def test_what_answers_at_once_imports_nothing_heavy(statement: str) -> None:
    assert imported_by(statement) & set(HEAVY) == set()


def test_the_method_needs_neither_ray_nor_mlflow_nor_a_command_line() -> None:
    loaded = imported_by("import utuning.cohort, utuning.predict, utuning.data.loader, utuning.tuners.p_adapter")
    assert loaded & {"ray", "mlflow", "typer", "rich", "pydantic", "optuna"} == set()


def test_the_verbs() -> None:
    from pipelines.cli import app

    assert {command.callback.__name__ for command in app.registered_commands if command.callback} == VERBS


def test_every_tuner_row_builds_and_rows_are_unique() -> None:
    assert {"p_adapter", "full"} <= set(TUNERS)
    for name in TUNERS:
        assert all(parameter.default is not parameter.empty for parameter in settings_of(name).values())
    with pytest.raises(ConfigError, match="registered twice: p_adapter"):
        table((*ROWS, ROWS[0]))


def test_profiles_are_found_and_checked(tmp_path: object) -> None:
    assert load_profile("local") == Profile(name="local")
    assert load_profile("127.0.0.1:6379", num_workers=2) == Profile(
        name="127.0.0.1:6379", address="127.0.0.1:6379", num_workers=2
    )
    for name, says in (("locl", "did you mean 'local'"), ("nowhere.yaml", "cannot be read")):
        with pytest.raises(ClusterError, match=says):
            load_profile(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [("num_worker: 2", "did you mean 'num_workers'"), ("num_workers: none", "at least 1"), ("[]", "is no mapping")],
)
def test_bad_profiles_are_named(tmp_path: object, text: str, says: str) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ClusterError, match=says):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("profile", "cpus", "gpus", "fits"),
    [
        (Profile(name="p"), 8, 0, 8),
        (Profile(name="p", num_workers=2, cpus_per_worker=2), 8, 0, 2),
        (Profile(name="p"), 8, 2, 2),
        (Profile(name="p", max_concurrent_trials=1), 8, 0, 1),
    ],
)
def test_as_many_trials_as_fit(profile: Profile, cpus: float, gpus: float, fits: int) -> None:
    assert profile.concurrent_trials(cpus, gpus) == fits


def test_a_group_that_never_fits_is_refused() -> None:
    with pytest.raises(ClusterError, match="lower num_workers"):
        Profile(name="p", num_workers=4).concurrent_trials(2, 0)
