"""YAML as plain values."""

import re
from pathlib import Path
from typing import Any

import yaml

from utuning.errors import SpaceError


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's numbers: 1e-3 is one, as everybody expects."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str) -> Any:
    """Read YAML from a text; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Yaml)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        SpaceError: it cannot be read.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path} cannot be read as YAML: {error}") from error
