"""The leaderboard on a terminal."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pipelines.leaderboard import COLUMNS, Row, cells


def table(rows: Sequence[Row]) -> Table:
    """Draw rows as a table: the champion is bold with a star, what has no place is dim."""
    made = Table(header_style="bold", box=None, pad_edge=False)
    for name, right in COLUMNS:
        made.add_column(name, justify="right" if right else "left", no_wrap=name != "configuration")
    for row in rows:
        made.add_row(*map(escape, cells(row)), style=_style(row))
    return made


def _style(row: Row) -> str:
    if row.champion:
        return "bold green"
    return "" if row.place else "dim"
