"""What the registry holds, for people and programs; and moving its aliases."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from pipelines.registry.models import Registry, VersionRecord
from pipelines.registry.references import Reference, parse_reference, registered_name
from utuning.errors import ConfigError


def listed(registry: Registry, name: str | None) -> list[VersionRecord]:
    """All versions of a model by its own or its space's name, or of all models; newest first.

    Raises:
        TrackingError: there is no such model.
    """
    names = sorted(registry.names()) if name is None else [registered_name(name)]
    return [record for each in names for record in registry.versions(each)]


def as_json(records: Sequence[VersionRecord]) -> list[dict[str, Any]]:
    """Plain values; what is not known is null."""
    return [_plain(record) for record in records]


def table(records: Sequence[VersionRecord]) -> Table:
    """A line for each version."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("model", "version", "aliases", "val", "test", "trial"):
        made.add_column(name, justify="right" if name in ("version", "val", "test") else "left")
    for row in as_json(records):
        scores = ["-" if row[split] is None else f"{row[split]:.2%}" for split in ("val", "test")]
        made.add_row(row["model"], str(row["version"]), " ".join(row["aliases"]), *scores, row["trial"] or "-")
    return made


def move_alias(registry: Registry, reference: Reference, to: str) -> int:
    """Let the alias that a reference names mean the version `to`, a number or another alias; gives the number.

    Raises:
        ConfigError, TrackingError: no such version.
    """
    assert reference.alias is not None
    found = registry.resolve(parse_reference(f"{reference.name}{'/' if to.isdecimal() else '@'}{to}"))
    assert found.version is not None
    registry.set_alias(found.model_name, reference.alias, found.version)
    return found.version


def parse_alias(text: str) -> Reference:
    """Read NAME@ALIAS.

    Raises:
        ConfigError: it is another reference, or none.
    """
    if "@" not in text:
        raise ConfigError(f"{text!r} names no alias; allowed: NAME@ALIAS, such as demo@champion or demo@canary")
    return parse_reference(text)


def _plain(record: VersionRecord) -> dict[str, Any]:
    tags = record.tags
    return {
        "model": record.model_name,
        "version": record.version,
        "aliases": list(record.aliases),
        "trial": tags.get("trial"),
        "trial_id": tags.get("trial_id"),
        "seed": int(tags["seed"]) if "seed" in tags else None,
        "val": record.number("val/accuracy"),
        "test": record.number("test/accuracy"),
        "val_of_all_seeds": record.val,
        "protocol": tags.get("protocol"),
        "run_id": record.run_id,
        "created": datetime.fromtimestamp(record.created / 1000, UTC).isoformat(timespec="seconds"),
    }
