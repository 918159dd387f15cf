"""Where bundles come from: a folder, or a name that a registry knows."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipelines.registry.references import Reference
from pipelines.serving.failures import RequestError, ServingError
from utuning.bundles.bundle import Bundle, read_bundle

if TYPE_CHECKING:
    from pipelines.registry.models import Registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Found:
    """What a source points to now; `alias` is None where it is no alias."""

    version: str
    alias: str | None = None


class Source(Protocol):
    """Gives a bundle, and says when it would give another."""

    def find(self) -> Found:
        """Say what it points to now.

        Raises:
            UTuningError: nobody knows.
        """

    def fetch(self, found: Found) -> Bundle:
        """Read that bundle.

        Raises:
            UTuningError: it cannot be had, or is damaged.
        """


@dataclass(frozen=True)
class FolderSource:
    """A bundle's folder. Its version is the trial that it came from."""

    path: Path

    def find(self) -> Found:
        """Say which trial's bundle lies there."""
        return Found(read_bundle(self.path).manifest.trial_id)

    def fetch(self, found: Found) -> Bundle:
        """Read it."""
        return read_bundle(self.path)


@dataclass(frozen=True)
class RegistrySource:
    """A reference to a registered model or a run. An alias may point elsewhere at any time."""

    registry: "Registry"
    reference: Reference

    def find(self) -> Found:
        """Say which version it is now; of a run, its id."""
        resolved = self.registry.resolve(self.reference)
        return Found(resolved.run_id if resolved.version is None else str(resolved.version), self.reference.alias)

    def fetch(self, found: Found) -> Bundle:
        """Copy that version, read it, and leave no file behind."""
        one = self.reference
        if one.run_id is None:
            one = Reference(name=one.name, version=int(found.version))
        with tempfile.TemporaryDirectory() as folder:
            return read_bundle(self.registry.fetch(self.registry.resolve(one), Path(folder) / "bundle"))


def check_name(name: str) -> str:
    """Check a tuner's name.

    Raises:
        ServingError: one that no folder and no address should have.
    """
    if not NAME.fullmatch(name) or name == "all":
        raise ServingError(
            f"{name[:100]!r} cannot be a tuner's name; allowed: up to 100 letters, digits, '.', '_' and '-', the first "
            "a letter or a digit, and not 'all'; give one: NAME=BUNDLE"
        )
    return name


def in_models(models: Path, name: str) -> Path:
    """The folder of a bundle in the model folder; names cannot leave it, nor can links.

    Raises:
        RequestError: no such folder.
    """
    path = models / name
    if NAME.fullmatch(name) and name != "all" and not path.is_symlink() and path.is_dir():
        return path
    held = sorted(each.name for each in models.iterdir() if each.is_dir() and not each.name.startswith("."))
    raise RequestError(
        404,
        "unknown_model",
        f"the model folder holds no bundle {name[:100]!r}; it holds: {', '.join(held[:20]) or 'none'}",
    )
