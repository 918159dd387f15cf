"""The marks on a beetle's wing cases, and the outlines they are cut to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from utuning.demo.species import Colour, Species

Point = tuple[float, float]
Fill = Callable[[list[Point], Colour], None]

_STEPS = 9


@dataclass(frozen=True)
class Outline:
    """An egg-shaped part of the body; lengths in half body lengths, y towards the tail."""

    top: float
    bottom: float
    width: float
    """Half the greatest width."""
    taper: float
    """Above one moves the widest place towards the tail."""

    def half_width(self, share: float) -> float:
        """Half the width at ``share`` of the way from the top (0) to the bottom (1)."""
        along = (0.1 + 0.9 * share) ** self.taper
        return self.width * math.pow(max(0.0, 1 - math.pow(abs(2 * along - 1), 2.4)), 1 / 2.4)

    def at(self, across: float, share: float) -> Point:
        """The point at ``across`` (-1 left edge, 1 right edge) and ``share`` of the length."""
        return across * self.half_width(share), self.top + share * (self.bottom - self.top)

    def between(self, start: float, stop: float, inset: float = 1.0) -> list[Point]:
        """Polygon of the slice from ``start`` to ``stop`` (shares), its width times ``inset``."""
        shares = [start + (stop - start) * step / _STEPS for step in range(_STEPS + 1)]
        right = [self.at(inset, share) for share in shares]
        return right + [(-x, y) for x, y in reversed(right)]


def draw_marks(fill: Fill, shell: Outline, kind: Species) -> None:
    """Fills the marks of ``kind`` on its wing cases, row by row (stripes: side by side)."""
    details, colour = kind.details, kind.genus.mark_colour
    count, large = details.marks + 2, 1.0 + 0.45 * details.size
    if kind.genus.pattern == "stripes":
        _stripes(fill, shell, count, large, details.offset, colour)
        return
    first, last = 0.14 + 0.05 * details.offset, 0.62 + 0.07 * details.offset
    for row in range(count):
        share = first + (last - first) * row / (count - 1)
        if kind.genus.pattern == "spots":
            _spots(fill, shell, share, 0.075 * large, colour)
        else:
            slope = 0.1 if kind.genus.pattern == "chevrons" else 0.0
            _band(fill, shell, share, 0.028 * large, slope, colour)


def _spots(fill: Fill, shell: Outline, share: float, radius: float, colour: Colour) -> None:
    for side in (-1, 1):
        x, y = shell.at(side * 0.5, share)
        turns = [2 * math.pi * step / 14 for step in range(14)]
        spot = [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns]
        fill(spot, colour)


def _band(fill: Fill, shell: Outline, share: float, half: float, slope: float, colour: Colour) -> None:
    across = [-0.92 + 1.84 * step / _STEPS for step in range(_STEPS + 1)]
    upper = [shell.at(x, share - half + slope * (1 - abs(x))) for x in across]
    lower = [shell.at(x, share + half + slope * (1 - abs(x))) for x in across]
    fill(upper + lower[::-1], colour)


def _stripes(fill: Fill, shell: Outline, count: int, large: float, offset: int, colour: Colour) -> None:
    shares = [0.06 + (0.6 + 0.09 * offset - 0.06) * step / _STEPS for step in range(_STEPS + 1)]
    half = 0.055 * large
    for side in (-1, 1):
        for row in range(count):
            middle = side * 0.85 * (row + 0.7) / count
            inner = [shell.at(middle - half, share) for share in shares]
            outer = [shell.at(middle + half, share) for share in shares]
            fill(inner + outer[::-1], colour)
