"""Naming a leaderboard's rows."""

from dataclasses import replace

import pytest

from pipelines.results.leaderboard import Row, rows
from pipelines.results.versus import compare_rows, find_row
from pipelines.tracking.records import RunRecord
from tests.tools import adapter, trial_of
from utuning.errors import TrackingError


def run(name: str, val: float, width: int, **changes: str) -> RunRecord:
    trial = trial_of(*([adapter("attn", bottleneck_dim=width)] if width else []), **changes)
    metrics = {"val/accuracy": val, "test/accuracy": val}
    return RunRecord(run_id=name, search_id="s", outcome="completed", trial=trial, metrics=metrics, start_time=0)


ROWS = rows([run("a", 0.9, 4), run("b", 0.8, 8), run("c", 0.7, 0)], champion_run_id="b")


@pytest.mark.parametrize(
    ("name", "run_id"),
    [("champion", "b"), ("1", "a"), ("3", "c"), ("linear", "c"), ("attn@all r8 lr1e-2", "b"),
     (ROWS[0].config_id, "a"), (ROWS[0].config_id[:5], "a")],
)  # fmt: skip
def test_a_row_has_many_names(name: str, run_id: str) -> None:
    assert find_row(ROWS, name).run_ids == (run_id,)


@pytest.mark.parametrize(
    ("name", "says"),
    [("p_adapter", "are 2 configurations"), ("linar", "did you mean 'linear'"), ("9", "no configuration is '9'")],
)
def test_names_that_are_nobodys_or_several_rows(name: str, says: str) -> None:
    with pytest.raises(TrackingError, match=says):
        find_row(ROWS, name)


def test_rows_with_a_place_come_before_those_without() -> None:
    twice = rows([run("a", 0.9, 4), replace(run("b", 0.8, 4, protocol="other"), start_time=-1)])
    assert find_row(twice, ROWS[0].label).run_ids == ("a",)


A, B = ROWS[0], ROWS[1]


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (A, A, "name two"),
        (A, replace(B, test_run_ids=()), "not measured on test"),
        (A, replace(B, protocol="trainval-final"), "the protocol of A is 'v1', of B 'trainval-final'"),
        (A, replace(B, data_fingerprint="d2"), "the data version of A is 'd1', of B 'd2'"),
        (A, replace(B, test_from=("train", "val")), r"trained on of A is 'train', of B 'train\+val'"),
        (A, replace(B, test_seeds=(5,)), "with seeds 0, .* with 5: there is no common one"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_both_sides(a: Row, b: Row, says: str) -> None:
    with pytest.raises(TrackingError, match=says):
        compare_rows(None, [], a, b)  # type: ignore[arg-type]  # nothing is read before that
