"""The main job on the embedded default, from nothing to a prediction: `make demo`."""

from functools import partial
from pathlib import Path
from typing import Any

from pipelines.cli import run_reporting_errors


def demo(home: Path = Path("runs")) -> None:
    """Search the demo space, pull the champion, and name an image that no trial ever saw."""
    from rich.console import Console

    from cluster.profile import load_profile
    from pipelines.workflows.launch import launch
    from pipelines.workspace import Workspace

    console, workspace = Console(), Workspace(home)
    ready, finished = launch("demo", (), console, profile=load_profile("local"), workspace=workspace)

    from pipelines.registry.references import parse_reference
    from pipelines.results import compare
    from pipelines.tracking.tracker import Tracker
    from pipelines.workflows import show
    from utuning.predict import Predictor

    tracker = Tracker.of(workspace)
    rows = compare.read_rows(tracker, ready.space.name)
    files = compare.write(rows, ready.space.name, workspace.root / "leaderboards" / ready.space.name)
    bundle = workspace.root / "bundles" / finished.search_id
    compare.pull_bundle(tracker, parse_reference(ready.space.model_name), bundle)
    image, label = unseen_image(workspace, ready)
    console.rule("what came out", align="left")
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    say(f"leaderboard   {', '.join(map(str, files))}")
    say(f"champion      {bundle}")
    say(f"unseen image  {image}, drawn just now: a {label}")
    show.show_predictions(Predictor.open(bundle).predict([image]), console)
    say(f"predict more  utuning predict {bundle} IMAGE…")
    say(f"serve it      utuning serve {ready.space.name}@champion")
    say(f"MLflow UI     {show.ui_command(workspace)}")


def unseen_image(workspace: Any, ready: Any) -> tuple[Path, str]:
    """Draw a beetle that is in no split, and save it; gives the file and its true class."""
    from utuning.demo.dataset import unseen

    example = unseen(ready.space.dataset.seed)
    path = workspace.root / "unseen" / Path(example.path).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(example.data)
    return path, example.label


if __name__ == "__main__":
    run_reporting_errors(demo)
