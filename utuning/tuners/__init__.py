"""The tuners: one file and one row of `TUNERS` each.

A row names a class; the class's keyword arguments, with their types and defaults, are the settings that a space may
give or search. Such a tuner stands beside an op: x' = OP(x) + U(x) (U-Tuning, arXiv 2303.00690). A row without a class
trains the backbone itself.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from torch import Generator, nn

from utuning.architectures import OpSite
from utuning.errors import ConfigError, nearest


class BuildsTuner(Protocol):
    """The class of a tuner: built for one op site, drawing its initial values from `generator`."""

    def __call__(self, site: OpSite, *, generator: Generator, **settings: Any) -> nn.Module:
        """Return a module that maps the stream x_BND to what it adds beside the op."""


@dataclass(frozen=True, kw_only=True)
class TunerRow:
    """One row: the method's name, its class as `module:Class`, and whether it trains the backbone instead."""

    name: str
    target: str = ""
    trains_backbone: bool = False


ROWS = (
    TunerRow(name="p_adapter", target="utuning.tuners.p_adapter:PAdapter"),
    TunerRow(name="full", trains_backbone=True),
)


def table(rows: tuple[TunerRow, ...]) -> dict[str, TunerRow]:
    """Index rows by name.

    Raises:
        ConfigError: a name stands twice.
    """
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"tuners registered twice: {', '.join(twice)}; give each row its own name")
    return {row.name: row for row in rows}


TUNERS = table(ROWS)


def tuner_row(method: str) -> TunerRow:
    """Look a method up.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in TUNERS:
        raise ConfigError(f"unknown tuning method {method!r}; {nearest(method, TUNERS)}")
    return TUNERS[method]


def settings_of(method: str) -> dict[str, inspect.Parameter]:
    """List the settings of a method: the keyword-only arguments of its class, but for the generator."""
    row = tuner_row(method)
    if not row.target:
        return {}
    parameters = inspect.signature(_load(row)).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "generator"}


def build_tuner(method: str, site: OpSite, settings: Mapping[str, Any], generator: Generator) -> nn.Module:
    """Build the tuner of one op site.

    Raises:
        ConfigError: a setting that the method has not.
    """
    allowed = settings_of(method)
    for key in settings:
        if key not in allowed:
            raise ConfigError(f"{method} has no setting {key!r}; {nearest(key, allowed)}")
    return _load(tuner_row(method))(site, generator=generator, **settings)


def _load(row: TunerRow) -> BuildsTuner:
    module, _, name = row.target.partition(":")
    return cast(BuildsTuner, getattr(import_module(module), name))
