"""Species of lanternbacks: what they look like, drawn from a seed.

Species come in genera of four. A genus fixes the coarse traits (build, colours, kind of marking);
the species of one genus share them and differ from each other in a few small details only.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from utuning.demo.names import epithet, genus_name

Colour = tuple[int, int, int]

SPECIES_PER_GENUS = 4
GENERA = {"downstream": 6, "pretraining": 28}
PATTERNS = ("spots", "bands", "stripes", "chevrons")
TIPS = ("thread", "club", "comb")
COLLARS = ("plain", "dot", "pair", "bar")

# Number of values of each small detail, in the order of ``Details``.
_LEVELS = (3, 3, 2, 3, 3, 4, 3)
_MUTATED = 2


@dataclass(frozen=True)
class Details:
    """Small traits that tell the species of one genus apart, as level numbers."""

    marks: int
    """Number of rows of marks on the wing cases, less two."""
    offset: int
    """How far the marks sit towards the tail."""
    size: int
    """How large the marks are."""
    antenna: int
    """How long the feelers are."""
    tip: int
    """How the feelers end: index into ``TIPS``."""
    collar: int
    """Mark on the neck shield: index into ``COLLARS``."""
    lantern: int
    """Colour of the glowing tail."""


@dataclass(frozen=True)
class Genus:
    """Coarse traits shared by the species of one genus; lengths in half body lengths."""

    pattern: str
    width: float
    taper: float
    shield: float
    shell_colour: Colour
    mark_colour: Colour
    shield_colour: Colour
    leg_colour: Colour


@dataclass(frozen=True)
class Species:
    """One species: its name, its place in its group and all of its traits."""

    name: str
    group: str
    number: int
    genus: Genus
    details: Details


def species(seed: int, group: str, number: int) -> list[Species]:
    """The first ``number`` species of ``group``, which is "downstream" or "pretraining".

    The groups share no genus. Raises ValueError if the group does not have that many species.
    """
    if group not in GENERA:
        raise ValueError(f"no group {group!r}; there are {', '.join(GENERA)}")
    most = GENERA[group] * SPECIES_PER_GENUS
    if not 0 <= number <= most:
        raise ValueError(f"group {group!r} has {most} species, not {number}")
    found = [one for index in range(GENERA[group]) for one in _genus_species(seed, group, index)]
    return found[:number]


def _genus_species(seed: int, group: str, index: int) -> list[Species]:
    place = index + (GENERA["downstream"] if group == "pretraining" else 0)
    rng = np.random.default_rng([seed, 21, place])
    genus = _genus(rng, PATTERNS[place % len(PATTERNS)])
    return [
        Species(
            name=f"{genus_name(seed, place)}-{epithet(seed, place * SPECIES_PER_GENUS + member)}",
            group=group,
            number=index * SPECIES_PER_GENUS + member,
            genus=genus,
            details=details,
        )
        for member, details in enumerate(_relatives(rng))
    ]


def _genus(rng: np.random.Generator, pattern: str) -> Genus:
    hue = float(rng.uniform())
    dark = bool(rng.uniform() < 0.5)
    return Genus(
        pattern=pattern,
        width=float(rng.uniform(0.42, 0.62)),
        taper=float(rng.uniform(0.8, 1.3)),
        shield=float(rng.uniform(0.26, 0.42)),
        shell_colour=_colour(hue, rng.uniform(0.55, 0.85), 0.34 if dark else 0.75),
        mark_colour=_colour(hue + rng.uniform(0.12, 0.6), 0.6, 0.95 if dark else 0.2),
        shield_colour=_colour(hue + rng.uniform(-0.3, 0.3), 0.6, rng.uniform(0.3, 0.7)),
        leg_colour=_colour(rng.uniform(0.02, 0.12), 0.5, rng.uniform(0.12, 0.4)),
    )


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, float(saturation), float(value))
    return round(255 * red), round(255 * green), round(255 * blue)


def _relatives(rng: np.random.Generator) -> list[Details]:
    """Details of the species of one genus: variations of one, no two alike."""
    base = [int(rng.integers(levels)) for levels in _LEVELS]
    found: list[Details] = [Details(*base)]
    while len(found) < SPECIES_PER_GENUS:
        varied = list(base)
        for trait in rng.choice(len(_LEVELS), size=_MUTATED, replace=False):
            step = int(rng.integers(1, _LEVELS[trait]))
            varied[trait] = (varied[trait] + step) % _LEVELS[trait]
        if Details(*varied) not in found:
            found.append(Details(*varied))
    return found
