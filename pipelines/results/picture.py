"""The leaderboard as a picture: accuracy against trainable parameters."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, product
from math import ceil, cos, hypot, radians, sin
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from pipelines.results.leaderboard import Row
from utuning.errors import TrackingError

SIZE_INCHES = (10.0, 6.2)
DPI = 200
INK, FAINT, GRID = "#22262b", "#8a9199", "#e6e9ec"
# Colours that colour-blind readers can tell apart; the two baselines are grey.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b4ab5", "#8c6d31")
# Where there are more methods than colours, they differ in shape.
MARKERS = ("o", "s", "D")
BASELINES = {"linear": ("#8a9199", "o"), "full": ("#3c4248", "o")}
LEGEND_COLUMNS = 6
# Where a label may lie: nearer is better, then right, left, above, below, and between them.
DISTANCES = (9, 14, 20, 28, 38, 50, 64, 80, 100, 125, 150)
ANGLES = (0, 180, 90, 270, *(angle for angle in range(15, 360, 15) if angle % 90))
# Below this share of the picture's height a test marker would cover its val marker: it becomes a ring around it.
NEAR = 0.018
MAX_LABELS = 24
# How many times nearer to its own point than to any other a label should lie.
CLEARER = 1.1


class _Point(NamedTuple):
    """A row as it is drawn."""

    x: float
    y: float
    test: float | None
    ci: float
    row: Row


class _Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float


class _Place(NamedTuple):
    """Where a label may lie, and where its leader line ends."""

    box: _Box
    end: tuple[float, float]


def draw(rows: Sequence[Row], to: Path, title: str) -> None:
    """Write a PNG with a point for each row that has val and parameters: val filled, test as a ring.

    Raises:
        TrackingError: no row has both, or the file cannot be written.
    """
    points = [
        _Point(row.trainable_params, row.val, row.test, row.val_ci or 0.0, row)
        for row in rows
        if row.place and row.val is not None and row.trainable_params
    ]
    if not points:
        raise TrackingError("no finished trial has a val accuracy and a parameter count: there is nothing to draw yet")
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white", layout=layout)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    looks = _looks(rows)
    handles = _handles(points, looks)
    _style(axes, title, legend_rows=ceil(len(handles) / LEGEND_COLUMNS))
    _limits(axes, points)
    for point in points:
        _mark(axes, point, *looks[point.row.method])
    _legend(axes, handles)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels stand where the points are now
    _label(axes, canvas, points, looks)
    write_figure(figure, to)


def _looks(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method."""
    methods = sorted({row.method for row in rows} - BASELINES.keys())
    looks = [(colour, marker) for marker in MARKERS for colour in PALETTE]
    return BASELINES | {method: looks[index % len(looks)] for index, method in enumerate(methods)}


def _style(axes: Axes, title: str, legend_rows: int) -> None:
    axes.set_xscale("log")
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK, pad=18 + 16 * legend_rows)
    axes.set_xlabel("trainable parameters", color=INK, fontsize=10)
    axes.set_ylabel("accuracy", color=INK, fontsize=10)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=30))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0, which="both", pad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _mark(axes: Axes, point: _Point, colour: str, marker: str) -> None:
    star = point.row.champion
    order = 5 if star else 3
    if point.test is not None:
        low, high = axes.get_ylim()
        near = abs(point.test - point.y) < NEAR * (high - low)
        size = (19 if star else 11) if near else 7
        face = "none" if near else "white"
        axes.plot([point.x] * 2, [point.y, point.test], color=colour, linewidth=1, alpha=0.45, zorder=2)
        axes.plot(point.x, point.test, marker, ms=size, mfc=face, mec=colour, mew=1.3, zorder=order - 0.2)
    if point.ci:
        axes.errorbar(point.x, point.y, point.ci, color=colour, elinewidth=1, capsize=2.5, zorder=order - 0.5)
    axes.plot(point.x, point.y, "*" if star else marker, ms=16 if star else 7.5, mfc=colour, mec="white", zorder=order)


def _limits(axes: Axes, points: Sequence[_Point]) -> None:
    """Leave room for labels at all sides."""
    counts = [point.x for point in points]
    span = max(max(counts) / min(counts), 10.0)
    axes.set_xlim(min(counts) / span**0.14, max(counts) * span**0.2)
    heights = [height for point in points for height in _heights(point)]
    room = max(max(heights) - min(heights), 0.02) * 0.1
    axes.set_ylim(max(min(heights) - room, 0.0), min(max(heights) + room, 1.02))


def _heights(point: _Point) -> tuple[float, ...]:
    ends = (point.y - point.ci, point.y, point.y + point.ci)
    return ends if point.test is None else (*ends, point.test)


def _handles(points: Sequence[_Point], looks: dict[str, tuple[str, str]]) -> list[Line2D]:
    rows = [point.row for point in points]

    def handle(label: str, colour: str, marker: str = "o", face: str | None = None, size: float = 7.0) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=marker, ms=size, color=colour, markerfacecolor=face or colour, label=label
        )

    handles = [handle(method, *looks[method]) for method in dict.fromkeys(row.method for row in rows)]
    if any(row.champion for row in rows):
        handles.append(handle("champion", INK, "*", size=11.0))
    if any(row.test is not None for row in rows):
        handles += [handle("val", INK), handle("test", INK, face="none")]
    return handles


def _legend(axes: Axes, handles: list[Line2D]) -> None:
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.005, 1.0), ncols=LEGEND_COLUMNS, frameon=False,
        fontsize=9, labelcolor=INK, handletextpad=0.2, columnspacing=1.4, borderaxespad=0.4,
    )  # fmt: skip


def _label(axes: Axes, canvas: FigureCanvasAgg, points: Sequence[_Point], looks: dict[str, tuple[str, str]]) -> None:
    """Name points, champion and best first, where nothing else lies; a point without a free place stays unnamed."""
    pixel = DPI / 72
    desk = _Desk(
        inside=_Box(*axes.get_window_extent().extents),
        points=[tuple(axes.transData.transform((point.x, point.y))) for point in points],
        taken=[box for point in points for box in _drawn(axes, point, 6 * pixel)],
    )
    for point in sorted(points, key=lambda point: (not point.row.champion, point.row.place))[:MAX_LABELS]:
        x, y = axes.transData.transform((point.x, point.y))
        text = axes.text(0, 0, point.row.label, fontsize=8, color=INK, transform=None, zorder=6, va="center_baseline")
        text.set_fontweight("bold" if point.row.champion else "normal")
        size = text.get_window_extent(canvas.get_renderer())
        place = desk.place(list(_places(x, y, size.width, size.height, pixel)), x, y)
        if place is None:
            text.remove()
            continue
        box, end = place
        text.set_position((box.x0, (box.y0 + box.y1) / 2))
        _leader(axes, (x, y), end, looks[point.row.method][0], pixel)


@dataclass(frozen=True, kw_only=True)
class _Desk:
    """What lies where, in pixels: all points, boxes that are taken, and leader lines as boxes along them."""

    inside: _Box
    points: Sequence[tuple[float, float]]
    taken: list[_Box]
    lines: list[tuple[_Box, ...]] = field(default_factory=list)

    def place(self, places: Sequence[_Place], x: float, y: float) -> _Place | None:
        """Take the first free place, rather one that is nearer to its own point than to any other."""
        clear = [place for place in places if self._unmistakable(place.box, x, y)]
        best = next((place for place in chain(clear, places) if self._free(place, x, y)), None)
        if best is not None:
            self.taken.append(best.box)
            self.lines.append(_steps(x, y, *best.end))
        return best

    def _free(self, place: _Place, x: float, y: float) -> bool:
        if not _within(place.box, self.inside):
            return False
        if any(_overlap(place.box, other) for other in chain(self.taken, *self.lines)):
            return False
        start, *steps = _steps(x, y, *place.end)
        return not any(_overlap(step, other) for step in steps for other in self.taken if not _overlap(start, other))

    def _unmistakable(self, box: _Box, x: float, y: float) -> bool:
        own = _distance(box, x, y)
        return all(_distance(box, *other) > CLEARER * own for other in self.points if other != (x, y))


def _drawn(axes: Axes, point: _Point, radius: float) -> Iterator[_Box]:
    """Give boxes that cover what is drawn of a point: its markers and what joins them."""
    heights = _heights(point)
    low, high = min(heights), max(heights)
    for height in {*heights, *(low + (high - low) * step / 8 for step in range(9))}:
        x, y = axes.transData.transform((point.x, height))
        yield _Box(x - radius, y - radius, x + radius, y + radius)


def _places(x: float, y: float, width: float, height: float, pixel: float) -> Iterator[_Place]:
    """Give places around a point, the best first."""
    for distance, angle in product(DISTANCES, ANGLES):
        dx, dy = cos(radians(angle)), sin(radians(angle))
        to_x, to_y = x + dx * distance * pixel, y + dy * distance * pixel
        x0 = to_x - width * (1 - (dx > 0.1) + (dx < -0.1)) / 2
        y0 = to_y - height * (1 - dy) / 2
        box = _Box(x0, y0, x0 + width, y0 + height)
        yield _Place(box, (to_x - 2 * dx * pixel, to_y - 2 * dy * pixel))


def _steps(x: float, y: float, to_x: float, to_y: float) -> tuple[_Box, ...]:
    """Give points along a line, its start first."""
    count = max(2, int(max(abs(to_x - x), abs(to_y - y)) / 6))
    ways = [(x + (to_x - x) * step / count, y + (to_y - y) * step / count) for step in range(count)]
    return tuple(_Box(*way, *way) for way in ways)


def _leader(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, pixel: float) -> None:
    if abs(end[0] - start[0]) + abs(end[1] - start[1]) > 15 * pixel:
        axes.add_line(
            Line2D([start[0], end[0]], [start[1], end[1]], transform=None, color=colour, lw=0.8, alpha=0.8, zorder=1)
        )


def _distance(box: _Box, x: float, y: float) -> float:
    return hypot(max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1))


def _overlap(one: _Box, other: _Box) -> bool:
    return one.x0 <= other.x1 and other.x0 <= one.x1 and one.y0 <= other.y1 and other.y0 <= one.y1


def _within(box: _Box, outer: _Box) -> bool:
    return outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1


def _count(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def write_figure(figure: Figure, to: Path, description: str | None = None) -> None:
    """Write a PNG, whole or not at all; the description is in the file.

    Raises:
        TrackingError: it cannot be written.
    """
    partial = to.with_name(f".{to.stem}.partial-{uuid.uuid4().hex[:12]}.png")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, metadata={"Software": None, "Description": description})
        partial.rename(to)
    except OSError as error:
        raise TrackingError(
            f"could not write {str(to)!r}: {error}; choose a writable folder with free space"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
