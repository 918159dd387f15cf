"""Ours beside published numbers as a picture: a band for each checkpoint and protocol, a line for each number.

Places are given within a band alone. All bands share one axis: it shows how high a number is, the band what it may be
compared with.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipelines.results.leaderboard import MISSING
from pipelines.results.picture import DPI, FAINT, GRID, INK, PALETTE, write_figure
from pipelines.results.published import Comparison, Entry
from search_spaces.published import UNKNOWN
from utuning.configs import digest

OURS = PALETTE[0]
BAND = "#f4f5f7"
WIDTH, LINE, GAP = 10.6, 0.235, 0.16
"""Inches: of the picture, from line to line, and between bands."""
LEFT, RIGHT, TOP, BOTTOM = 3.75, 3.35, 0.95, 0.5
"""Inches around the axes: methods stand on the left, numbers and sources on the right."""
PLACE, METHOD = 0.5, 0.6
"""Inches from the left edge at which places end and methods begin."""
TEST, PARAMS, SOURCE = 1.05, 1.78, 1.95
"""Inches from the axes at which numbers end and sources begin."""
NOTE_LINE, NOTE_WIDTH = 0.155, 185
"""A line of a note: its height in inches, and its characters."""
LONGEST = 38
"""Characters of a method's name, and half as many of a source's."""
SUPERSCRIPTS = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹\u2009")


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What stands at a height, in lines from the top: a band's heading or a number."""

    y: float
    group: tuple[str, str]
    entry: Entry | None = None


def picture_name(comparison: Comparison) -> str:
    """The file of a comparison's picture."""
    return f"published-{comparison.dataset}.png"


def heading(group: tuple[str, str]) -> str:
    """What a group's numbers have in common, and whether they are ranked."""
    checkpoint, protocol = group
    said = [f"checkpoint {checkpoint}", f"protocol {protocol}"]
    return "; ".join(said) + ("; not ranked" if UNKNOWN in group else "")


def contents(comparison: Comparison) -> str:
    """Give a digest of what a picture shows. It stands in the file, so that an old picture is told from a new one."""
    return digest({"entries": [repr(entry) for entry in comparison.entries]})


def draw_published(comparison: Comparison, to: Path) -> None:
    """Write a PNG of a comparison.

    Raises:
        TrackingError: the file cannot be written.
    """
    write_figure(published_figure(comparison), to, contents(comparison))


def published_figure(comparison: Comparison) -> Figure:
    """Draw a comparison: as high as its lines and notes need, always as wide."""
    lines, notes = list(_lines(comparison)), _notes(comparison)
    rows = (lines[-1].y + 1) * LINE
    height = TOP + rows + BOTTOM + NOTE_LINE * len(notes) + 0.1
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    shape = (LEFT / WIDTH, 1 - (TOP + rows) / height, (WIDTH - LEFT - RIGHT) / WIDTH, rows / height)
    axes = figure.add_axes(shape)
    _style(axes, lines)
    marks = {note: str(number) for number, note in enumerate(comparison.notes, 1)}
    for line in lines:
        if line.entry is None:
            _head(axes, line)
        else:
            _draw(axes, line.y, line.entry, ",".join(sorted((marks[note] for note in line.entry.notes), key=int)))
    left, inch = 0.2 / WIDTH, 1 / height
    figure.text(left, 1 - 0.3 * inch, comparison.title, fontsize=14, fontweight="bold", color=INK, va="center")
    about = "top-1 accuracy on test; places are given within a band alone: one checkpoint, one protocol"
    figure.text(left, 1 - 0.58 * inch, about, fontsize=9, color=INK, va="center")
    for number, text in enumerate(notes, 1):
        up = 0.12 + NOTE_LINE * (len(notes) - number)
        figure.text(left, up * inch, text, fontsize=7, color=INK, va="bottom")
    return figure


def _lines(comparison: Comparison) -> Iterator[_Line]:
    y = 0.0
    for group, entries in comparison.groups:
        yield _Line(y=y, group=group)
        yield from (_Line(y=y + number, group=group, entry=entry) for number, entry in enumerate(entries, 1))
        y += 1 + len(entries) + GAP / LINE


def _style(axes: Axes, lines: list[_Line]) -> None:
    numbers = [line.entry for line in lines if line.entry is not None]
    low = min(entry.accuracy - (entry.ci or 0.0) for entry in numbers)
    high = max(entry.accuracy + (entry.ci or 0.0) for entry in numbers)
    room = max(high - low, 0.01) * 0.06
    axes.set_xlim(max(low - room, 0.0), min(high + room, 1.005))
    axes.set_ylim(lines[-1].y + 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.set_yticks([])
    axes.tick_params(colors=INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    for name, x, align in (("test %", TEST, "right"), ("M params", PARAMS, "right"), ("source", SOURCE, "left")):
        _text(axes, x, -1.0, name, ha=align, color=FAINT)


def _head(axes: Axes, line: _Line) -> None:
    """Name a band, on a stripe from edge to edge."""
    width = WIDTH - LEFT - RIGHT
    left, right = -(LEFT - 0.12) / width, (WIDTH - 0.12 - LEFT) / width
    axes.axhspan(line.y - 0.46, line.y + 0.46, left, right, color=BAND, clip_on=False, linewidth=0, zorder=2)
    _text(axes, -width - LEFT + 0.2, line.y, heading(line.group), ha="left", fontsize=8.5, style="italic")


def _draw(axes: Axes, y: float, entry: Entry, marks: str) -> None:
    colour = OURS if entry.ours else INK if entry.place else FAINT
    if entry.ci:
        axes.errorbar(entry.accuracy, y, xerr=entry.ci, color=colour, elinewidth=1.2, capsize=2.5, zorder=3)
    face = colour if entry.place else "white"
    axes.plot(entry.accuracy, y, "D" if entry.ours else "o", ms=6, mfc=face, mec=colour, mew=1.2, zorder=4)
    width, weight = WIDTH - LEFT - RIGHT, "bold" if entry.ours else "normal"
    place = "" if entry.place is None else f"{entry.place}."
    ink = OURS if entry.ours else INK
    _text(axes, PLACE - LEFT - width, y, place, ha="right", color=ink, fontweight=weight)
    name = _short(entry.method, LONGEST) + marks.translate(SUPERSCRIPTS)
    _text(axes, METHOD - LEFT - width, y, name, ha="left", color=ink, fontweight=weight)
    interval = "" if entry.ci is None else f" ± {100 * entry.ci:.2f}"
    params = MISSING if entry.params_millions is None else f"{entry.params_millions:.2f}"
    _text(axes, TEST, y, f"{100 * entry.accuracy:.2f}{interval}", ha="right", color=ink, fontweight=weight)
    _text(axes, PARAMS, y, params, ha="right", color=ink)
    _text(axes, SOURCE, y, _short(entry.source.partition(",")[0], LONGEST // 2), ha="left", color=ink)


def _text(axes: Axes, inches: float, y: float, text: str, **style: Any) -> None:
    """Write at a line, so many inches right of the axes' right edge."""
    x = 1 + inches / (WIDTH - LEFT - RIGHT)
    look = {"fontsize": 8.5, "color": INK, **style}
    axes.text(x, y, text, transform=axes.get_yaxis_transform(), va="center_baseline", clip_on=False, zorder=5, **look)


def _notes(comparison: Comparison) -> list[str]:
    """Notes with their numbers, then the sources, as lines that fit."""
    texts = [f"{number}  {note}" for number, note in enumerate(comparison.notes, 1)]
    sources = dict.fromkeys(entry.source for entry in comparison.entries if not entry.ours)
    texts.append(f"sources: {'; '.join(sources)}")
    return [line for text in texts for line in textwrap.wrap(text, NOTE_WIDTH, subsequent_indent="    ")]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
