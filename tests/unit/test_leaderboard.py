"""Ranking runs, writing them down and drawing them."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from scipy import stats

from pipelines.results import picture
from pipelines.results.leaderboard import COLUMNS, as_json, as_markdown, half_width, input_note, rows, t_quantile
from pipelines.results.render import table
from pipelines.tracking.records import RunRecord
from tests.tools import adapter, train, trial_of
from utuning.configs import TunerConfig
from utuning.errors import TrackingError


def run(
    run_id: str, val: float | None = 0.5, *, width: int = 16, seed: int = 0, start: int = 0, outcome: str = "completed",
    test: float | None = None, search: str = "s", **changes: str,
) -> RunRecord:  # fmt: skip
    tuners = (adapter("attn", bottleneck_dim=width),) if width else ()
    trial = trial_of(*tuners, train=train(seed=seed), **changes)
    measured = {"val/accuracy": val, "test/accuracy": test, "trainable_params": 100.0 * (width + 1)}
    metrics = {key: value for key, value in measured.items() if value is not None}
    return RunRecord(run_id=run_id, search_id=search, outcome=outcome, trial=trial, metrics=metrics, start_time=start)


def test_places_follow_val_and_missing_values_are_last_without_one() -> None:
    made = rows([run("a", 0.6, width=8), run("b", None, width=4), run("c", 0.8, width=32)])
    assert [(row.place, row.run_ids) for row in made] == [(1, ("c",)), (2, ("a",)), (None, ("b",))]
    assert made[2].val is None and made[2].note == "no val"


def test_equal_val_is_won_by_fewer_parameters() -> None:
    assert [row.run_ids for row in rows([run("a", width=64), run("b", width=2)])] == [("b",), ("a",)]


def test_a_stand_in_says_so() -> None:
    for method, says in (("instance_prompt", True), ("vpt_shallow", False)):
        (row,) = rows([replace(run("a"), trial=trial_of(TunerConfig(method=method)))])
        assert row.stand_in == says == ("(stand-in)" in as_markdown([row]))


def test_seeds_are_averaged_with_their_interval() -> None:
    (row,) = rows([run("a", 0.70, seed=0, test=0.6), run("b", 0.72, seed=1), run("c", 0.74, seed=2)])
    assert row.val == pytest.approx(0.72) and row.val_ci == pytest.approx(4.302653 * 0.02 / math.sqrt(3))
    assert row.seeds == (0, 1, 2)
    assert (row.test, row.test_ci, row.test_seeds) == (0.6, None, (0,))
    assert "60.0 (n=1)" in as_markdown([row])


def test_input_wait_is_averaged_and_said_where_it_was_measured() -> None:
    runs = [run(name, seed=seed) for seed, name in enumerate("ab")]
    for each, wait in zip(runs, (0.25, 0.75), strict=True):
        each.metrics["input_wait"] = wait  # type: ignore[index]
    made = rows([*runs, run("c", width=8)])
    assert {row.run_ids: row.input_wait for row in made} == {("a", "b"): 0.5, ("c",): None}
    assert "50.0%" in input_note(made)
    assert input_note(rows([run("c")])) == ""
    assert as_json(made, {})["rows"][0].keys() >= {"input_wait"}


def test_the_newest_finished_run_of_a_trial_counts() -> None:
    old, new = run("old", 0.9, start=1), run("new", 0.8, start=2)
    crashed = run("crashed", 0.99, start=3, outcome="failed")
    (row,) = rows([old, crashed, new], champion_run_id="old")
    assert row.run_ids == ("new",) and row.val == 0.8 and row.outcome == "completed"
    assert row.champion, "the champion's configuration stays marked when its trial ran again"


def test_a_stopped_seed_does_not_dilute_completed_ones() -> None:
    (row,) = rows([run("a", 0.8, seed=0), run("b", 0.2, seed=1, outcome="stopped")])
    assert (row.val, row.seeds, row.outcome) == (0.8, (0,), "completed")


@pytest.mark.parametrize("outcome", ["failed", "running", "killed"])
def test_what_did_not_finish_has_no_place(outcome: str) -> None:
    made = rows([run("a", 0.9, width=8, outcome=outcome), run("b", 0.1)])
    assert [(row.place, row.note) for row in made] == [(1, ""), (None, outcome)]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"protocol": "p0"}, "other protocol"),
        ({"data_fingerprint": "d0"}, "other data"),
        ({"backbone_fingerprint": "b0"}, "other backbone"),
    ],
)
def test_other_conditions_are_listed_after_and_marked(changes: dict[str, str], note: str) -> None:
    made = rows([run("old", 0.99, start=1, **changes), run("new", 0.5, start=2)])
    assert [(row.run_ids, row.place, row.note) for row in made] == [(("new",), 1, ""), (("old",), None, note)]


def test_one_search_alone() -> None:
    assert [row.run_ids for row in rows([run("a", search="x"), run("b", search="y", width=8)], search_id="y")] == [
        ("b",)
    ]
    assert rows([], search_id="y") == []


RUNS = st.lists(
    st.builds(
        run,
        st.uuids().map(str),
        st.none() | st.floats(0, 1),
        width=st.sampled_from([0, 4, 8]),
        seed=st.integers(0, 2),
        start=st.integers(0, 5),
        outcome=st.sampled_from(["completed", "stopped", "failed", "running"]),
        protocol=st.sampled_from(["p1", "p2"]),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(RUNS, st.randoms())
def test_rankings_hold_for_any_runs_in_any_order(runs: list[RunRecord], shuffle: random.Random) -> None:
    made = rows(runs)
    shuffled = list(runs)
    shuffle.shuffle(shuffled)
    assert rows(shuffled) == made
    placed = [row for row in made if row.place]
    assert [row.place for row in placed] == list(range(1, len(placed) + 1))
    assert made[: len(placed)] == placed, "rows without a place come last"
    assert [row.val for row in placed] == sorted((row.val for row in placed), reverse=True)
    assert len({(row.protocol, row.data_fingerprint) for row in placed}) <= 1
    assert {row.config_id for row in made} == {run.trial.config_id for run in runs}
    json.dumps(as_json(made, {"commit": "abc"}), allow_nan=False)


@pytest.mark.parametrize("degrees", [1, 2, 10, 11, 15, 40, 1000])
def test_student_t(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-4)


def test_no_interval_for_one_value() -> None:
    assert half_width([0.5]) is None and half_width([]) is None


def test_text_is_readable_and_missing_is_a_dash() -> None:
    full = replace(
        rows([run("a", 0.792, test=0.771)], champion_run_id="a")[0], trainable_params=335_697, bundle_bytes=1_340_000
    )
    text = as_markdown([full, *rows([run("b", None)])])
    assert "**79.2**" in text and "335,697" in text and "1.34 MB" in text and "★" in text
    assert "–" in text.splitlines()[3] and "nan" not in text.lower()  # noqa: RUF001
    assert {line.count("|") for line in text.splitlines()} == {len(COLUMNS) + 1}


def test_the_terminal_table_shows_every_row_and_takes_labels_literally() -> None:
    row = replace(rows([run("a", 0.792)], champion_run_id="a")[0], label="attn@[bold] r16")
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table([row, replace(row, champion=False, place=2)]))
    text = console.export_text()
    assert text.count("attn@[bold] r16") == 2 and "1 ★" in text


def test_a_picture_appears_whole(tmp_path: Path) -> None:
    made = rows([run(f"r{i}", 0.5 + i / 50, width=i, test=0.5) for i in range(18)], champion_run_id="r3")
    picture.draw(made, tmp_path / "deep" / "board.png", "a title")
    with Image.open(tmp_path / "deep" / "board.png") as image:
        assert image.size == (2000, 1240)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["board.png"]


@pytest.mark.parametrize("runs", [[], [run("a", None)], [run("a", 0.5, outcome="failed")]])
def test_nothing_to_draw_is_said(runs: list[RunRecord], tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="nothing to draw"):
        picture.draw(rows(runs), tmp_path / "board.png", "a title")
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="could not write"):
        picture.draw(rows([run("a")]), tmp_path / "file" / "board.png", "a title")
