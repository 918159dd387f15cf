"""How one names a bundle: `demo`, `demo@champion`, `demo/3`, or the id of a run. Reading a name asks no store."""

import re
from dataclasses import dataclass

from utuning.errors import ConfigError, SpaceError

CHAMPION = "champion"
PREFIX = "utuning-"
FORMS = f"NAME@ALIAS, NAME/VERSION, NAME (its {CHAMPION}), or the id of a run (32 hex digits)"
RUN_ID = re.compile(r"[0-9a-f]{32}")
NAME = re.compile(r"[\w.-][\w .-]*|.+\.ya?ml")
ALIAS = re.compile(r"[A-Za-z0-9_-]+")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
# MLflow keeps these for itself.
RESERVED = re.compile(r"latest|v[0-9]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Either a run, or a version of a model by its number or by an alias; what a reference does not say is None.

    `name` is that of a registered model, or of a search space: its name, or the path of its YAML file.
    """

    name: str | None = None
    alias: str | None = None
    version: int | None = None
    run_id: str | None = None

    def __str__(self) -> str:
        if self.run_id is not None:
            return self.run_id
        return f"{self.name}@{self.alias}" if self.version is None else f"{self.name}/{self.version}"


def parse_reference(text: str) -> Reference:
    """Read `demo@champion`, `demo/3`, `demo` (which is `demo@champion`), or a run's id.

    Raises:
        ConfigError: it is none of these.
    """
    if RUN_ID.fullmatch(text):
        return Reference(run_id=text)
    if "@" in text:
        name, _, alias = text.rpartition("@")
        return Reference(name=_name(name, text), alias=check_alias(alias, text))
    name, _, last = text.rpartition("/")
    if name and VERSION.fullmatch(last):
        return Reference(name=_name(name, text), version=int(last))
    return Reference(name=_name(text, text), alias=CHAMPION)


def check_alias(alias: str, text: str) -> str:
    """Give the alias back; `text` is what messages quote.

    Raises:
        ConfigError: a registry takes no such alias.
    """
    if ALIAS.fullmatch(alias) and not RESERVED.fullmatch(alias):
        return alias
    raise ConfigError(
        f"{text!r} has the alias {alias!r}; allowed: letters, digits, - and _, but neither `latest` nor v with a "
        "number, which MLflow keeps for itself; a version is named by NAME/VERSION"
    )


def registered_name(name: str) -> str:
    """The registered model that a name means: itself where it starts with `utuning-`, else that of the space.

    Raises:
        SpaceError: a space that cannot be read.
    """
    from search_spaces.loader import find_space, load_space

    if name.startswith(PREFIX):
        return name
    try:
        find_space(name)
    except SpaceError:
        return f"{PREFIX}{name}"
    return load_space(name).model_name


def _name(name: str, text: str) -> str:
    if NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{text!r} names no bundle; allowed: {FORMS}; such as demo@{CHAMPION} or demo/3; `utuning models` lists them"
    )
