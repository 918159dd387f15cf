"""Reading results back: leaderboards as table, Markdown, JSON and picture, and pulling a bundle."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import provenance
from pipelines.leaderboard import Row, as_json, as_markdown, input_note, rows
from pipelines.picture import draw
from pipelines.registry import Registry
from pipelines.render import table
from pipelines.tracking import Tracker
from search_spaces.loader import find_space, load_space
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.errors import SpaceError


def read_rows(tracker: Tracker, space_name: str) -> list[Row]:
    """All configurations of a space, ranked, the champion marked."""
    runs = tracker.runs(space_name)
    names = {f"utuning-{run.trial.dataset}" for run in runs}
    registry = Registry(tracker)
    champions = [found.run_id for name in names if (found := registry.champion(name))]
    return rows(runs, champion_run_id=champions[0] if champions else None)


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The leaderboard as plain values, with what made it."""
    return as_json(
        rows,
        {
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def write(rows: Sequence[Row], name: str, to: Path) -> list[Path]:
    """Write leaderboard.md, .json and .png into a folder; gives the files."""
    to.mkdir(parents=True, exist_ok=True)
    markdown, plain, picture = (to / f"leaderboard.{ending}" for ending in ("md", "json", "png"))
    note = input_note(rows)
    text = f"# {name}\n\n{as_markdown(rows)}" + (f"\n{note}\n" if note else "")
    markdown.write_text(text, encoding="utf-8")
    plain.write_text(json.dumps(document(rows), indent=2) + "\n", encoding="utf-8")
    draw(rows, picture, name)
    return [markdown, plain, picture]


def show(rows: Sequence[Row], name: str, files: Sequence[Path], console: Console) -> None:
    """Print the table and where the files lie."""
    console.print(f"[bold]{name}[/bold]")
    console.print(table(rows))
    if note := input_note(rows):
        console.print(note, highlight=False, soft_wrap=True)
    console.print(f"files: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


def pull_bundle(tracker: Tracker, name: str, alias: str, to: Path) -> Bundle:
    """Copy the bundle under an alias of a space's (or registered model's) name, and check it."""
    return read_bundle(Registry(tracker).download(_model_name(name), alias=alias, to=to))


def _model_name(name: str) -> str:
    if name.startswith("utuning-"):
        return name
    try:
        find_space(name)
    except SpaceError:
        return f"utuning-{name}"
    return load_space(name).model_name
