"""Reading results back: leaderboards as table, Markdown, JSON and picture, and pulling a bundle."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import provenance
from pipelines.registry.models import Registry
from pipelines.registry.references import Reference
from pipelines.results.leaderboard import Row, as_json, as_markdown, input_note, rows
from pipelines.results.picture import draw
from pipelines.results.published import Comparison
from pipelines.results.published_page import plain, published_markdown, published_table
from pipelines.results.published_picture import draw_published, picture_name
from pipelines.results.render import table
from pipelines.tracking.tracker import Tracker
from utuning.bundles.bundle import Bundle, read_bundle


def read_rows(tracker: Tracker, space_name: str) -> list[Row]:
    """All configurations of a space, ranked, the champion marked."""
    runs = tracker.runs(space_name)
    names = {f"utuning-{run.trial.dataset}" for run in runs}
    registry = Registry(tracker)
    champions = [found.run_id for name in names if (found := registry.champion(name))]
    return rows(runs, champion_run_id=champions[0] if champions else None)


def document(rows: Sequence[Row], beside: Sequence[Comparison] = ()) -> dict[str, Any]:
    """The leaderboard as plain values, with what made it, and the published numbers beside it."""
    facts = {
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return as_json(rows, facts) | ({"published": plain(beside)} if beside else {})


def write(rows: Sequence[Row], name: str, to: Path, beside: Sequence[Comparison] = ()) -> list[Path]:
    """Write leaderboard.md, .json and .png into a folder, and a picture of each comparison; gives the files."""
    to.mkdir(parents=True, exist_ok=True)
    markdown, values, picture = (to / f"leaderboard.{ending}" for ending in ("md", "json", "png"))
    note = input_note(rows)
    text = f"# {name}\n\n{as_markdown(rows)}" + (f"\n{note}\n" if note else "") + published_markdown(beside)
    markdown.write_text(text, encoding="utf-8")
    values.write_text(json.dumps(document(rows, beside), indent=2) + "\n", encoding="utf-8")
    draw(rows, picture, name)
    pictures = [to / picture_name(comparison) for comparison in beside]
    for comparison, file in zip(beside, pictures, strict=True):
        draw_published(comparison, file)
    return [markdown, values, picture, *pictures]


def show(
    rows: Sequence[Row], name: str, files: Sequence[Path], console: Console, beside: Sequence[Comparison] = ()
) -> None:
    """Print the table, published numbers beside it, and where the files lie."""
    console.print(f"[bold]{name}[/bold]")
    console.print(table(rows))
    if note := input_note(rows):
        console.print(note, highlight=False, soft_wrap=True)
    for comparison in beside:
        console.print(published_table(comparison))
    console.print(f"files: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


def pull_bundle(tracker: Tracker, reference: Reference, to: Path) -> Bundle:
    """Copy the bundle that a reference means to a folder, checked."""
    registry = Registry(tracker)
    return read_bundle(registry.fetch(registry.resolve(reference), to))
