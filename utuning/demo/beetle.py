"""Draws one beetle onto a canvas, from its traits and its pose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw

from utuning.demo.marks import Outline, draw_marks
from utuning.demo.species import COLLARS, TIPS, Colour, Species

Point = tuple[float, float]

_LANTERNS: tuple[Colour, ...] = ((255, 214, 92), (170, 255, 120), (255, 150, 110))


@dataclass(frozen=True)
class Pose:
    """Where and how a beetle sits on the canvas."""

    centre: Point
    """Centre of the body, in canvas pixels."""
    scale: float
    """Half the body length, in canvas pixels."""
    angle: float
    """Turn from head-up, in radians."""
    squeeze: float
    """Factor on the width, from a tilted view."""
    legs: tuple[float, ...]
    """Swing of the six legs and the two feelers, in half body lengths."""

    def place(self, point: Point) -> Point:
        """The canvas position, in pixels, of a point of the beetle (head up, y to the tail)."""
        x, y = point[0] * self.squeeze * self.scale, point[1] * self.scale
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.centre[0] + cos * x - sin * y, self.centre[1] + sin * x + cos * y


def draw_beetle(pen: ImageDraw.ImageDraw, kind: Species, pose: Pose) -> None:
    """Draws ``kind`` in ``pose`` with a pen in RGBA mode."""
    genus = kind.genus
    shell = Outline(-0.32, 1.0, genus.width, genus.taper)
    place = pose.place
    _shadow(pen, shell, pose)
    _legs(pen, kind, pose)
    _feelers(pen, kind, pose)
    _fill(pen, place, _ellipse((0, -0.8), 0.19, 0.17), darker(genus.shield_colour, 0.6))
    _fill(pen, place, shell.between(0, 1), darker(genus.shell_colour, 0.55))
    _fill(pen, place, shell.between(0.015, 0.985, 0.93), genus.shell_colour)
    draw_marks(lambda points, colour: _fill(pen, place, points, colour), shell, kind)
    _fill(pen, place, shell.between(0.86, 1), _LANTERNS[kind.details.lantern])
    _line(pen, pose, [(0, -0.3), (0, 0.8)], 0.035, darker(genus.shell_colour, 0.5))
    _shield(pen, kind, pose)
    sheen = _ellipse((-0.5 * genus.width, 0.05), 0.07, 0.2)
    pen.polygon([place(point) for point in sheen], fill=(255, 255, 255, 70))


def darker(colour: Colour, factor: float) -> Colour:
    """``colour`` with each part (0 to 255) multiplied by ``factor``, at most one."""
    return round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor)


def _ellipse(centre: Point, across: float, along: float) -> list[Point]:
    turns = [2 * math.pi * step / 20 for step in range(20)]
    return [(centre[0] + across * math.cos(t), centre[1] + along * math.sin(t)) for t in turns]


def _fill(pen: ImageDraw.ImageDraw, place: Callable[[Point], Point], points: list[Point], colour: Colour) -> None:
    pen.polygon([place(point) for point in points], fill=colour)


def _line(pen: ImageDraw.ImageDraw, pose: Pose, points: list[Point], width: float, colour: Colour) -> None:
    pixels = max(1, round(width * pose.scale))
    pen.line([pose.place(point) for point in points], fill=colour, width=pixels, joint="curve")


def _shadow(pen: ImageDraw.ImageDraw, shell: Outline, pose: Pose) -> None:
    drop = 0.09 * pose.scale
    placed = [pose.place(point) for point in shell.between(0, 1, 1.08)]
    pen.polygon([(x + drop, y + drop) for x, y in placed], fill=(0, 0, 0, 80))


def _legs(pen: ImageDraw.ImageDraw, kind: Species, pose: Pose) -> None:
    reach = kind.genus.width
    for leg in range(6):
        side, row = (-1 if leg % 2 else 1), leg // 2
        start, swing = (-0.45, 0.0, 0.35)[row], pose.legs[leg]
        lean = (-0.28, 0.05, 0.3)[row] + swing
        knee = (side * (reach + 0.16), start + lean)
        foot = (side * (reach + 0.3), start + 2 * lean + 0.08)
        joints = [(0.0, start), knee, foot]
        _line(pen, pose, joints, 0.075, kind.genus.leg_colour)


def _feelers(pen: ImageDraw.ImageDraw, kind: Species, pose: Pose) -> None:
    length = (0.38, 0.58, 0.78)[kind.details.antenna]
    colour = darker(kind.genus.leg_colour, 0.8)
    for feeler, side in enumerate((-1, 1)):
        spread = 0.55 + pose.legs[6 + feeler]
        bend = (side * (0.1 + 0.45 * spread * length), -0.9 - 0.55 * length)
        end = (side * (0.1 + 1.1 * spread * length), -0.9 - 0.9 * length)
        _line(pen, pose, [(side * 0.1, -0.9), bend, end], 0.055, colour)
        if TIPS[kind.details.tip] == "club":
            _fill(pen, pose.place, _ellipse(end, 0.095, 0.095), colour)
        elif TIPS[kind.details.tip] == "comb":
            for share in (0.3, 0.65, 1.0):
                x = bend[0] + share * (end[0] - bend[0])
                y = bend[1] + share * (end[1] - bend[1])
                _line(pen, pose, [(x, y), (x + side * 0.15, y + 0.14)], 0.045, colour)


def _shield(pen: ImageDraw.ImageDraw, kind: Species, pose: Pose) -> None:
    genus, collar = kind.genus, COLLARS[kind.details.collar]
    shield = Outline(-0.74, -0.28, genus.shield, 1.0)
    _fill(pen, pose.place, shield.between(0, 1), darker(genus.shield_colour, 0.55))
    _fill(pen, pose.place, shield.between(0.04, 0.96, 0.88), genus.shield_colour)
    if collar == "dot":
        _fill(pen, pose.place, _ellipse((0, -0.51), 0.085, 0.085), genus.mark_colour)
    elif collar == "pair":
        for side in (-1, 1):
            mark = _ellipse((side * 0.5 * genus.shield, -0.51), 0.075, 0.085)
            _fill(pen, pose.place, mark, genus.mark_colour)
    elif collar == "bar":
        _fill(pen, pose.place, shield.between(0.4, 0.62, 0.88), genus.mark_colour)
