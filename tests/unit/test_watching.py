"""What a person sees: the board of a search, and what the doctor says."""

import io

from rich.console import Console

from pipelines.board import Board
from pipelines.doctor import mismatch
from pipelines.spared import Tally


def board(*, terminal: bool) -> tuple[Board, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    return Board(title="search x", num_trials=2, console=console), out


def play(live: Board) -> None:
    with live:
        live.start("a", "attn@all r4 lr1e-3 seed0", 3)
        live.epoch("a", 2, 0.5)
        live.end("a", "completed")
        if live._live is not None:
            live._live.refresh()


def test_the_board_is_quiet_off_a_terminal() -> None:
    live, out = board(terminal=False)
    play(live)
    assert out.getvalue() == ""


def test_the_board_shows_trials_on_a_terminal() -> None:
    live, out = board(terminal=True)
    play(live)
    for text in ("attn@all r4", "2/3", "50.0%", "1 of 2 trials done"):
        assert text in out.getvalue()


def test_doctor_says_a_torchvision_mismatch_in_words() -> None:
    said = mismatch("2.13.0+cpu", "0.29.1", "operator torchvision::nms does not exist")
    assert "different builds" in said
    assert "pip install" in said
    assert "nms" not in mismatch("2.14.1", "0.29.1", "no module named x")


def report(group: str, cohort: str, blocks_s: float) -> dict[str, object]:
    return {"group": group, "cohort": cohort, "cohort_spared_s": blocks_s, "group_start_s": 10.0}


def test_what_a_search_spares_counts_each_cohort_once_and_a_start_for_all_trials_but_a_groups_first() -> None:
    spared = Tally()
    assert (spared.groups, spared.seconds) == (0, 0.0)
    for trial in ("a", "b", "c"):
        spared.add(trial, report("one", "first", 3.0))
    spared.add("a", report("one", "first", 7.0))
    spared.add("d", report("one", "second", 1.0))
    spared.add("e", report("two", "third", 0.5))
    spared.add("f", {"error": "it failed"})
    assert spared.groups == 3
    assert spared.seconds == 7.0 + 1.0 + 0.5 + 3 * 10.0
