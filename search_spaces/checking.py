"""Plain values checked against a dataclass: all problems at once, each with what is allowed."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError

from utuning.errors import SpaceError, nearest
from utuning.settings import AtLeast
from utuning.tuners import settings_of

T = TypeVar("T")


@dataclass
class Problems:
    """Gathers every problem of a space, to raise them together."""

    found: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note one problem, once."""
        if problem not in self.found:
            self.found.append(problem)

    def check(self, title: str) -> None:
        """Raise all that was found, if anything was."""
        if self.found:
            listed = "\n".join(f"  - {problem}" for problem in self.found)
            raise SpaceError(f"{title} cannot be used:\n{listed}")

    def build(self, cls: type[T], values: Any, where: str) -> T | None:
        """Build a dataclass from plain values, or note why not."""
        values = self.mapping(values, where, [f.name for f in fields(cls)])  # type: ignore[arg-type]
        return None if values is None else self.value(cls, values, where)

    def mapping(self, values: Any, where: str, allowed: list[str]) -> dict[str, Any] | None:
        """Check that values are a mapping with known keys only; unknown ones are noted and left out."""
        if not isinstance(values, Mapping):
            self.add(f"{where}: {values!r} is no mapping; allowed keys: {', '.join(sorted(allowed))}")
            return None
        for key in values:
            if key not in allowed:
                self.add(f"{where + '.' if where else ''}{key}: unknown key; {nearest(str(key), allowed)}")
        return {key: value for key, value in values.items() if key in allowed}

    def value(self, kind: Any, value: Any, where: str) -> Any:
        """Read one value as a type, strictly, as JSON would be read: a text is no number."""
        try:
            return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            for problem in error.errors():
                path = ".".join([where, *(str(part) for part in problem["loc"] if not _is_type_name(part))])
                given = "" if problem["type"] == "missing" else f" given {problem['input']!r};"
                self.add(f"{path}:{given} {problem['msg'].lower()}")
        except TypeError:
            self.add(f"{where}: {value!r} is no plain value; use numbers, texts, lists and mappings")
        return None

    def settings(self, method: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Check a tuner's settings against its class."""
        parameters = settings_of(method)
        known = self.mapping(values, where, list(parameters)) or {}
        return {key: self.value(_with_bounds(parameters[key]), value, f"{where}.{key}") for key, value in known.items()}


def _is_type_name(part: Any) -> bool:
    """Pydantic names the branch of a union in a location; a user does not know it."""
    return (isinstance(part, str) and any(mark in part for mark in "[(")) or part in ("str", "int", "float")


def _with_bounds(parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *bounds = get_args(annotation)
    minimum = next((bound.minimum for bound in bounds if isinstance(bound, AtLeast)), None)
    return Annotated[kind, Field(ge=minimum)]
