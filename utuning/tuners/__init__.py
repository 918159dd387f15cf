"""The tuners: a file for each method, a row of `rows.py` for each name.

The keyword-only arguments of a method's class, with their types and defaults, are the settings that a space may give or
search.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from utuning.errors import ConfigError, nearest
from utuning.tuners.rows import ROWS, TUNERS, TunerRow, table, tuner_row

__all__ = ["ROWS", "TUNERS", "TunerRow", "settings_of", "table", "target_of", "tuner_row", "with_defaults"]


def settings_of(method: str) -> dict[str, inspect.Parameter]:
    """List the settings of a method: the keyword-only arguments of its class, but for the generator.

    Defaults are the row's where it has its own. A composed method has the settings of its parts.
    """
    row = tuner_row(method)
    if row.parts:
        return {
            name: setting.replace(default=part.settings.get(name, setting.default))
            for part in row.parts
            for name, setting in settings_of(part.method).items()
        }
    found = inspect.signature(target_of(row)).parameters.values()
    return {
        p.name: p.replace(default=row.settings.get(p.name, p.default))
        for p in found
        if p.kind is p.KEYWORD_ONLY and p.name != "generator"
    }


def with_defaults(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a method is built with: what is given, else the row's defaults.

    Raises:
        ConfigError: a setting that the method has not.
    """
    allowed = settings_of(method)
    for key in given:
        if key not in allowed:
            raise ConfigError(f"{method} has no setting {key!r}; {nearest(key, allowed)}")
    return {**tuner_row(method).settings, **given}


def target_of(row: TunerRow) -> Callable[..., Any]:
    """Import the class or the rule of a row."""
    module, _, name = row.target.partition(":")
    return cast(Callable[..., Any], getattr(import_module(module), name))
