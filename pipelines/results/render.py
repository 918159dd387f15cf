"""The leaderboard on a terminal, made to fit 80 columns."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pipelines.results.leaderboard import COLUMNS, Row, cells

# A configuration's name says its method; what is the same for all rows is said once, below the table.
LEFT_OUT = ("method",)
SAID_ONCE = ("protocol", "outcome")


def table(rows: Sequence[Row]) -> Table:
    """Draw rows as a table: the champion is bold with a star, what has no place is dim."""
    lines = [dict(zip((name for name, _ in COLUMNS), cells(row), strict=True)) for row in rows]
    same = {name: lines[0][name] for name in SAID_ONCE if lines and len({line[name] for line in lines}) == 1}
    shown = [(name, right) for name, right in COLUMNS if name not in LEFT_OUT and name not in same]
    caption = "; ".join(f"{name}: {value}" for name, value in same.items())
    made = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 1), caption=caption, caption_justify="left")
    for name, right in shown:
        # The configuration gives way on a narrow terminal: it folds, numbers do not.
        folds = name == "configuration"
        heading = name.replace(" ", "\n")
        made.add_column(heading, justify="right" if right else "left", no_wrap=not folds, overflow="fold")
    for row, line in zip(rows, lines, strict=True):
        made.add_row(*(escape(line[name]) for name, _ in shown), style=_style(row))
    return made


def _style(row: Row) -> str:
    if row.champion:
        return "bold green"
    return "" if row.place else "dim"
