"""Plain values, as JSON has them, to frozen dataclasses: every value is checked against its annotation."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from utuning.errors import ConfigError, nearest

T = TypeVar("T")
LARGEST = 2**63 - 1
WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    type(None): "null",
}


def read_as(kind: type[T], values: Any, name: str) -> T:
    """Build a dataclass from a mapping; `name` is what messages call it. Numbers keep their own type, 1 or 1.0.

    Raises:
        ConfigError: a missing or unknown key, or a value of another type than its annotation.
    """
    return cast(T, _read(kind, values, name))


def _read(kind: Any, value: Any, name: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(kind, value, name)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        return _first_that_fits(arguments, value, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        each = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        if len(each) == len(value):
            return tuple(_read(k, v, f"{name}[{i}]") for i, (k, v) in enumerate(zip(each, value, strict=True)))
    elif origin not in (None, tuple, Literal) and isinstance(value, Mapping):
        return {key: _read(arguments[1], each, f"{name}.{key}") for key, each in value.items()}
    elif (origin is Literal and value in arguments) or (origin is None and _is(kind, value)):
        return value
    raise ConfigError(f"{name} is {_shown(value)}; allowed: {_words(kind)}")


def _dataclass(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {_shown(value)}; allowed: a mapping")
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise ConfigError(f"{name} has an unknown key {_shown(key)}; {nearest(str(key), hints)}")
    for each in fields(kind):
        if each.name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{name} lacks {each.name!r}; it needs {', '.join(hints)}")
    return kind(**{key: _read(hints[key], each, f"{name}.{key}") for key, each in value.items()})


def _first_that_fits(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    for kind in kinds:
        try:
            return _read(kind, value, name)
        except ConfigError:
            continue
    raise ConfigError(f"{name} is {_shown(value)}; allowed: {', or '.join(map(_words, kinds))}")


def _is(kind: type, value: Any) -> bool:
    """Whether JSON's value is of this type: true is no number, and a whole number is one with a fraction too."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if isinstance(value, int):
        return kind in (int, float) and abs(value) <= LARGEST
    if isinstance(value, float):
        return kind is float and math.isfinite(value)
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list of {'' if arguments[-1] is ... else f'{len(arguments)} times '}{_words(arguments[0])}"
    return WORDS.get(kind, "a mapping")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
