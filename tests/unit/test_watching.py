"""What a person sees, and the gate between a supervisor and its workers."""

import asyncio
import io

from rich.console import Console

from pipelines.board import Board
from pipelines.doctor import mismatch
from pipelines.gate import Gate


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


def test_workers_wait_for_leave_and_end_when_told() -> None:
    async def scene() -> list[bool]:
        gate = Gate()
        assert await gate.may_train(1)
        second = asyncio.create_task(gate.may_train(2))
        third = asyncio.create_task(gate.may_train(3))
        await asyncio.sleep(0)
        assert not second.done()
        await gate.allow(2)
        allowed = await second
        await gate.stop()
        return [allowed, await third]

    assert asyncio.run(scene()) == [True, False]


def test_reports_come_in_order_and_end() -> None:
    async def scene() -> list[object]:
        gate = Gate()
        await gate.report({"epoch": 1})
        await gate.report({"epoch": 2})
        await gate.close()
        return [await gate.next_report() for _ in range(3)]

    assert asyncio.run(scene()) == [{"epoch": 1}, {"epoch": 2}, None]
