"""What a search may vary: four kinds of domains, in YAML `{choice: […]}`, `{loguniform: [low, high]}` and so on.

A choice's alternatives may hold domains of their own: they are drawn only where that alternative is taken, so a space
offers an adapter's width beside a prompt's length without ever combining the two.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from utuning.errors import SpaceError


@dataclass(frozen=True)
class Choice:
    """One of the listed values, by its place."""

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> int:
        """Draw the place of a value."""
        return rng.randrange(len(self.values))


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


Domain = Choice | Interval
Pick = Callable[[str, Domain], Any]
"""Decides a domain that is met at a path: the place of a choice's value, or an interval's number."""
Picks = Mapping[str, Any]
"""What was decided at each path that was met."""
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
    """Collect all domains below a node of a space, by dotted path, those of a choice's alternatives included."""
    found: dict[str, Domain] = {}
    if is_domain(node):
        domain = parse_domain(node, where)
        if varies(domain):
            found[where] = domain
    for path, child in _alternatives(node, where) if is_domain(node) else _children(node, where):
        found |= find_domains(child, path)
    return found


def draw(node: Any, pick: Pick, where: str = "") -> Any:
    """Copy a node with every domain that is met replaced by what `pick` decides."""
    if is_domain(node):
        domain = parse_domain(node, where)
        if isinstance(domain, Interval):
            return pick(where, domain)
        place = pick(where, domain) if varies(domain) else 0
        return draw(domain.values[place], pick, _join(where, place))
    return _rebuilt(node, [draw(child, pick, path) for path, child in _children(node, where)])


def replay(picks: Picks) -> Pick:
    """Decide again as it was decided once."""
    return lambda where, domain: picks[where]


def variants(node: Any, where: str = "") -> list[Any]:
    """Copies of a node that between them take every listed value and both ends of every interval, one change a copy."""
    if is_domain(node):
        domain = parse_domain(node, where)
        if isinstance(domain, Interval):
            return list(dict.fromkeys((domain.low, domain.high)))
        return [variant for path, child in _alternatives(node, where) for variant in variants(child, path)]
    each = [variants(child, path) for path, child in _children(node, where)]
    first = [found[0] for found in each]
    changed = ([*first[:place], other, *first[place + 1 :]] for place, found in enumerate(each) for other in found[1:])
    return [_rebuilt(node, children) for children in chain([first], changed)]


def varies(domain: Domain) -> bool:
    """Whether there is anything to decide: a list of one value is a fixed value."""
    return isinstance(domain, Interval) or len(domain.values) > 1


def _children(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    return ((_join(where, key), child) for key, child in children)


def _alternatives(node: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    domain = parse_domain(node, where)
    return iter(()) if isinstance(domain, Interval) else _children(list(domain.values), where)


def _rebuilt(node: Any, children: Sequence[Any]) -> Any:
    """A node of the same kind with other children."""
    if isinstance(node, Mapping):
        return dict(zip(map(str, node), children, strict=True))
    return list(children) if isinstance(node, list) else node


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _is_number(value: Any, whole: bool) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
