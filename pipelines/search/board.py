"""What a person sees while a search runs: a live table of trials on a terminal, nothing elsewhere."""

import time
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

ROWS_SHOWN = 16
WAITING = ("workers start; then all members of a cohort train an epoch together",)
BAR_WIDTH = 20
OTHERS_WIDTH = 42
"""Of a line: what stands beside the name, up to epoch 999/1000."""
MARKS = {"running": "·", "completed": "✓", "stopped": "■", "failed": "✗"}
STYLES = {"running": "cyan", "completed": "green", "stopped": "yellow", "failed": "red"}


@dataclass
class TrialLine:
    """One trial on the board."""

    name: str
    num_epochs: int
    epoch: int = 0
    val: float | None = None
    state: str = "running"


@dataclass
class Board:
    """The live table; off a terminal it keeps its lines and prints nothing."""

    title: str
    num_trials: int
    console: Console = field(default_factory=lambda: Console(stderr=True))
    lines: dict[str, TrialLine] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    work: tuple[str, ...] = WAITING
    _live: Live | None = None

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, trial_id: str, name: str, num_epochs: int) -> None:
        """A trial begins, or begins again."""
        self.lines[trial_id] = TrialLine(name, num_epochs)

    def epoch(self, trial_id: str, epoch: int, val: float | None, work: tuple[str, ...] = ()) -> None:
        """A trial has finished an epoch; `work` says in words, a line each, how its cohort is doing."""
        line = self.lines[trial_id]
        line.epoch, line.val = epoch, val
        self.work = work

    def end(self, trial_id: str, state: str) -> None:
        """A trial is over."""
        self.lines[trial_id].state = state

    def _render(self) -> Group:
        lines = list(self.lines.values())
        done = sum(line.state != "running" for line in lines)
        best = max((line.val for line in lines if line.val is not None), default=None)
        seconds = time.monotonic() - self.started
        head = Text(f"{self.title}: {done} of {self.num_trials} trials done, {seconds:.0f} s", style="bold")
        head.append(f", best val {best:.1%}" if best is not None else "")
        running = [line for line in lines if line.state == "running"]
        over = [line for line in lines if line.state != "running"]
        shown = [*over, *running][-ROWS_SHOWN:]
        words = (Text(line, no_wrap=True, overflow="ellipsis") for line in self.work)
        return Group(head, *words, self._table(shown, best))

    def _table(self, lines: list[TrialLine], best: float | None) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("trial", "", "epoch", "val"):
            table.add_column(name, justify="right" if name in ("epoch", "val") else "left")
        for line in lines:
            bar = ProgressBar(
                total=line.num_epochs, completed=line.epoch, width=BAR_WIDTH, complete_style=STYLES[line.state]
            )
            val = Text("" if line.val is None else f"{line.val:.1%}", style="bold" if line.val == best else "")
            trial = Text(f"{MARKS[line.state]} {line.name}", style=STYLES[line.state])
            trial.truncate(self.console.width - OTHERS_WIDTH, overflow="ellipsis")
            table.add_row(trial, bar, f"{line.epoch}/{line.num_epochs}", val)
        return table
