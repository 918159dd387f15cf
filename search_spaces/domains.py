"""What a search may vary: four kinds of domains, in YAML `{choice: […]}`, `{loguniform: [low, high]}` and so on."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utuning.errors import SpaceError


@dataclass(frozen=True)
class Choice:
    """One of the listed values."""

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        """Draw one value."""
        return rng.choice(self.values)

    def probes(self) -> tuple[Any, ...]:
        """Values that stand for all when a space is checked."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """A number between `low` and `high`: uniform, log-uniform, or an integer with both ends included."""

    kind: str
    low: float
    high: float

    def sample(self, rng: random.Random) -> float:
        """Draw one number."""
        if self.kind == "randint":
            return rng.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high)
        return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))

    def probes(self) -> tuple[Any, ...]:
        """Values that stand for all when a space is checked."""
        return (self.low, self.high)


Domain = Choice | Interval
KINDS = ("choice", "uniform", "loguniform", "randint")


def is_domain(node: Any) -> bool:
    """Whether a YAML node is written as a domain."""
    return isinstance(node, Mapping) and len(node) == 1 and next(iter(node)) in KINDS


def parse_domain(node: Mapping[str, Any], where: str) -> Domain:
    """Read a domain.

    Raises:
        SpaceError: an empty choice, or ends that make no interval.
    """
    kind, given = next(iter(node.items()))
    if kind == "choice":
        if not isinstance(given, list) or not given:
            raise SpaceError(f"{where}: choice {given!r} offers nothing; list one value or more, such as [4, 8, 16]")
        return Choice(tuple(given))
    whole = kind == "randint"
    if not (isinstance(given, list) and len(given) == 2 and all(_is_number(end, whole) for end in given)):
        numbers = "two whole numbers" if whole else "two numbers"
        raise SpaceError(f"{where}: {kind} {given!r} is no interval; give {numbers}, [low, high]")
    low, high = given
    if low > high or (kind == "loguniform" and low <= 0):
        raise SpaceError(f"{where}: {kind} {given!r} is empty; low must be at most high, and above 0 for loguniform")
    return Interval(kind, low, high)


def find_domains(node: Any, where: str = "") -> dict[str, Domain]:
    """Collect all domains below a node of a space, by dotted path."""
    if is_domain(node):
        return {where: parse_domain(node, where)}
    return {
        path: domain
        for key, child in _children(node)
        for path, domain in find_domains(child, _join(where, key)).items()
    }


def fill(node: Any, values: Mapping[str, Any], where: str = "") -> Any:
    """Copy a node with every domain replaced by its value."""
    if is_domain(node):
        return values[where]
    if isinstance(node, Mapping):
        return {key: fill(child, values, _join(where, key)) for key, child in node.items()}
    if isinstance(node, list):
        return [fill(child, values, _join(where, str(place))) for place, child in enumerate(node)]
    return node


def _children(node: Any) -> Sequence[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [(str(key), child) for key, child in node.items()]
    return [(str(place), child) for place, child in enumerate(node)] if isinstance(node, list) else []


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _is_number(value: Any, whole: bool) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
