"""Ours beside published numbers as Markdown, as plain values and on a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipelines.results.leaderboard import MISSING
from pipelines.results.published import Comparison, Entry
from pipelines.results.published_picture import heading, picture_name

HEADINGS = (("#", True), ("method", False), ("test %", True), ("M params", True), ("source", False))


def plain(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain values for a JSON file."""
    return [asdict(comparison) for comparison in comparisons]


def published_markdown(comparisons: Sequence[Comparison]) -> str:
    """Markdown: a section for each comparison, its picture, a table for each group, what to know before comparing."""
    return "".join(f"\n## Beside published numbers: {it.title}\n{''.join(_section(it))}" for it in comparisons)


def published_table(comparison: Comparison) -> Table:
    """A terminal's table: ours bold, what cannot be ranked dim."""
    title = f"beside published numbers: {comparison.title}"
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for name, right in HEADINGS:
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for group, entries in comparison.groups:
        table.add_row("", f"[italic]{escape(heading(group))}[/italic]")
        for entry in entries:
            style = "bold" if entry.ours else "" if entry.place else "dim"
            table.add_row(*map(escape, _cells(entry)), style=style)
    notes = _notes(comparison)
    table.caption, table.caption_justify = escape("\n".join(notes)) or None, "left"
    return table


def _section(comparison: Comparison) -> Iterator[str]:
    yield f"\n![ours beside published numbers]({picture_name(comparison)})\n"
    for group, entries in comparison.groups:
        yield f"\n### {heading(group)}\n\n"
        lines = [[name for name, _ in HEADINGS], ["---:" if right else "---" for _, right in HEADINGS]]
        lines += [[f"**{cell}**" if entry.ours else cell for cell in _cells(entry)] for entry in entries]
        yield "".join(f"| {' | '.join(line)} |\n" for line in lines)
    yield "".join(f"\n{note}  " for note in _notes(comparison)) + "\n"


def _cells(entry: Entry) -> list[str]:
    interval = "" if entry.ci is None else f" ± {100 * entry.ci:.2f}"
    params = MISSING if entry.params_millions is None else f"{entry.params_millions:.2f}"
    return [str(entry.place or MISSING), entry.method, f"{100 * entry.accuracy:.2f}{interval}", params, entry.source]


def _notes(comparison: Comparison) -> list[str]:
    """What is to be known of the numbers: a note that several share is said once."""
    said = {note: ", ".join(dict.fromkeys(entry.method for entry in of)) for note, of in comparison.notes.items()}
    return [f"{methods} ({comparison.notes[note][0].source}): {note}" for note, methods in said.items()]
