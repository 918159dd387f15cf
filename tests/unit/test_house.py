"""House rules that are tests: who imports what, which verbs there are, and which rows the tables have."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.profile import HERE, Layout, Profile, load_profile
from utuning.errors import ClusterError, ConfigError
from utuning.tuners import ROWS, TUNERS, settings_of, table

HEAVY = ("torch", "ray", "mlflow", "timm", "pyarrow", "optuna", "matplotlib", "pydantic")
VERBS = {
    "plan", "search", "train", "leaderboard", "compare", "pull", "models", "alias", "predict", "verify", "export",
    "import", "reproduce", "serve", "prepare", "doctor",
}  # fmt: skip


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
    loaded = imported_by(
        "import utuning.cohort, utuning.pool, utuning.predict, utuning.data.loader, utuning.tuners.p_adapter"
    )
    assert loaded & {"ray", "mlflow", "typer", "rich", "pydantic", "optuna"} == set()


def test_the_verbs() -> None:
    from pipelines.cli import app

    assert {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    } == VERBS


def test_every_tuner_row_builds_and_rows_are_unique() -> None:
    assert {"p_adapter", "full"} <= set(TUNERS)
    for name in TUNERS:
        assert all(parameter.default is not parameter.empty for parameter in settings_of(name).values())
    with pytest.raises(ConfigError, match="registered twice: p_adapter"):
        table((*ROWS, ROWS[0]))


def test_profiles_are_found_and_checked() -> None:
    assert load_profile("local") == Profile(name="local")
    assert load_profile("127.0.0.1:6379", num_workers=2) == Profile(
        name="127.0.0.1:6379", address="127.0.0.1:6379", num_workers=2
    )
    for name, says in (("locl", "did you mean 'local'"), ("nowhere.yaml", "cannot be read")):
        with pytest.raises(ClusterError, match=says):
            load_profile(name)


def test_the_local_profile_explains_every_field() -> None:
    lines = (HERE / "local.yaml").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines if not line.startswith("#")] == [f.name for f in fields(Profile)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("num_worker: 2", "did you mean 'num_workers'"),
        ("max_cohort: 2", "did you mean 'max_cohorts'"),
        ("num_workers: none", "num_workers is 'none'; give a whole number of at least 1"),
        ("num_workers: 0", "num_workers is 0; give a whole number of at least 1"),
        ("cpus_per_worker: 0.5", "cpus_per_worker is 0.5; give a whole number of at least 1"),
        ("gpus_per_worker: -1", "gpus_per_worker is -1; give a whole number of at least 0"),
        ("max_members: true", "max_members is True; give a whole number of at least 1"),
        ("cache_gb: all", "cache_gb is 'all'; give a whole number of at least 0"),
        ("[]", "is no mapping"),
    ],
)
def test_bad_profiles_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ClusterError, match=f"mine.yaml.*{says}"):
        load_profile(str(path))


def laid_out(cpus: float, gpus: float, batch_size: int, *, cohorts: int = 1, **values: Any) -> Layout:
    return Profile(name="p", **values).layout(cpus, gpus, batch_size=batch_size, num_cohorts=cohorts)


@given(
    cpus=st.integers(1, 64), gpus=st.integers(0, 16), batch_size=st.integers(1, 256),
    cpus_per_worker=st.integers(1, 4), cohorts=st.integers(0, 99),
)  # fmt: skip
def test_workers_share_a_batch_evenly_and_fit(
    cpus: int, gpus: int, batch_size: int, cpus_per_worker: int, cohorts: int
) -> None:
    assume(cpus_per_worker <= cpus)
    layout = laid_out(cpus, gpus, batch_size, cohorts=cohorts, cpus_per_worker=cpus_per_worker)
    assert batch_size % layout.num_workers == 0
    assert layout.num_cohorts * layout.num_workers * cpus_per_worker <= cpus
    assert layout.num_cohorts * layout.num_workers * layout.gpus_per_worker <= gpus


@pytest.mark.parametrize(
    ("cpus", "batch_size", "num_cohorts", "num_workers"),
    [(8, 64, 1, 8), (8, 6, 1, 6), (4, 10, 2, 2), (6, 7, 6, 1), (32, 64, 4, 8), (1, 64, 1, 1)],
)
def test_a_cohort_has_as_many_workers_as_divide_a_batch_up_to_eight(
    cpus: int, batch_size: int, num_cohorts: int, num_workers: int
) -> None:
    layout = laid_out(cpus, 0, batch_size)
    assert (layout.num_cohorts, layout.num_workers) == (num_cohorts, num_workers)


@pytest.mark.parametrize(
    ("wanted", "num_cohorts", "num_workers"), [(0, 1, 8), (2, 2, 4), (3, 4, 2), (5, 8, 1), (8, 8, 1), (1000, 8, 1)]
)
def test_cohorts_share_the_machine_evenly(wanted: int, num_cohorts: int, num_workers: int) -> None:
    layout = laid_out(8, 0, 64, cohorts=wanted)
    assert (layout.num_cohorts, layout.num_workers) == (num_cohorts, num_workers)


def test_given_numbers_are_kept() -> None:
    layout = laid_out(8, 2, 64, cohorts=1000, num_workers=2, cpus_per_worker=2, gpus_per_worker=0)
    assert layout == Layout(num_cohorts=2, num_workers=2, cpus_per_worker=2, gpus_per_worker=0)


@pytest.mark.parametrize(
    ("gpus", "values", "num_cohorts", "num_workers", "gpus_per_worker"),
    [
        (2, {}, 1, 2, 1),
        (3, {"num_workers": 1}, 3, 1, 1),
        (4, {"gpus_per_worker": 2}, 1, 2, 2),
        (2, {"gpus_per_worker": 0}, 1, 8, 0),
    ],
)
def test_where_there_are_gpus_each_worker_has_one_or_as_many_as_given(
    gpus: int, values: dict[str, Any], num_cohorts: int, num_workers: int, gpus_per_worker: int
) -> None:
    layout = laid_out(8, gpus, 64, **values)
    assert (layout.num_cohorts, layout.num_workers) == (num_cohorts, num_workers)
    assert layout.gpus_per_worker == gpus_per_worker


@pytest.mark.parametrize(("most", "num_cohorts"), [(None, 4), (3, 3), (9, 4)])
def test_no_more_cohorts_than_allowed(most: int | None, num_cohorts: int) -> None:
    assert laid_out(8, 0, 64, num_workers=2, max_cohorts=most).num_cohorts == num_cohorts


@pytest.mark.parametrize("values", [{"num_workers": 4}, {"cpus_per_worker": 3}, {"gpus_per_worker": 1}])
@pytest.mark.parametrize("cohorts", [1, 1000])
def test_a_group_that_never_fits_is_refused(values: dict[str, Any], cohorts: int) -> None:
    with pytest.raises(
        ClusterError, match=r"profile 'p' wants .*; the cluster has 2 CPUs and 0 GPUs; lower num_workers"
    ):
        laid_out(2, 0, 64, cohorts=cohorts, **values)
