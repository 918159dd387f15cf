"""What a person sees: the board of a search, and what the doctor says."""

import io
from typing import Any

from rich.console import Console

from pipelines.cohorts.spared import Tally
from pipelines.search.board import Board
from pipelines.search.recorder import at_work
from pipelines.search.search import Finished
from pipelines.workflows.doctor import mismatch
from pipelines.workflows.show import measured


def board(*, terminal: bool, width: int = 100) -> tuple[Board, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system=None)
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


def test_a_narrow_terminal_has_a_line_for_each_thing() -> None:
    live, _ = board(terminal=True, width=80)
    live.start("a", "p_adapter+p_prefix attn+mlp+block@last:2 r32 m10 lr1.23e-2 seed0", 4)
    live.start("b", "linear lr3e-2 seed0", 4)
    assert "workers start" in shown(live)
    live.epoch("a", 3, 0.508, at_work(AT_WORK, 123.4))
    live.epoch("b", 4, 0.375)
    live.end("b", "stopped")
    live.epoch("a", 3, 0.508, at_work(AT_WORK, 123.4))
    lines = shown(live).splitlines()
    assert len(lines) == 6 and all(len(line) <= 80 for line in lines)
    head, cohort, spared, _, over, running = lines
    assert "1 of 2 trials done" in head and "best val 50.8%" in head
    assert cohort == "cohort: 16 members, 12,345 images/s in all, 7% of the time waiting for images"
    assert spared == "shared: 64% of the frozen blocks' work; with starts of workers about 123 s saved"
    assert over.startswith("■ linear lr3e-2 seed0") and over.rstrip().endswith("4/4  37.5%")
    assert running.startswith("· p_adapter+p_prefix attn") and "…" in running
    assert running.rstrip().endswith("3/4  50.8%")


def test_a_report_without_work_says_nothing_of_it() -> None:
    assert at_work({"epoch": 1}, 5.0) == ()
    assert at_work({**AT_WORK, "cohort_members": 1}, 0.0)[0].startswith("cohort: 1 member, ")


AT_WORK = {"cohort_members": 16, "cohort_images_per_s": 12345.0, "input_wait": 0.07, "cohort_spared_share": 0.64}


def shown(live: Board) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(live._render())
    return console.export_text()


def finished(**values: Any) -> Finished:
    given = {"seconds": 119.4, "spared": Tally(), "peak_bytes": 1.1e9, "predicted": {}, **values}
    return Finished(search_id="s", rows=(), decision=None, champion_run_id="", **given)  # type: ignore[arg-type]


def test_after_a_search_stands_what_was_measured_beside_what_was_predicted() -> None:
    spared = Tally()
    for trial in ("a", "b"):
        spared.add(trial, report("group", "cohort", 30.0))
    assert measured(finished(predicted={"seconds": 98.0, "peak_bytes": 1.5e9}, spared=spared)) == [
        "search s took 119 s; predicted 98 s",
        "a worker had 1.1 GB of memory at most; predicted 1.5 GB",
        "cohorts spared about 40 s (1 worker group not started)",
    ]
    assert measured(finished(predicted={"seconds": 98.0}))[1:] == ["a worker had 1.1 GB of memory at most"]
    assert measured(finished(peak_bytes=0.0)) == ["search s took 119 s; `utuning plan` would predict it"]


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
    spared.side_by_side = 2
    assert spared.seconds == 7.0 + 1.0 + 0.5 + 3 * 10.0 / 2
