"""What the command line prints: plans, what is trainable, results."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from pipelines.plan import Prepared, build_member, num_trials, planned_trials
from pipelines.render import table as leaderboard_table
from pipelines.search import Finished
from pipelines.workspace import Workspace
from utuning.configs import TrialConfig
from utuning.member import Member
from utuning.predict import Prediction


def show_plan(ready: Prepared, console: Console) -> None:
    """Print what a search will do: data, backbone, and every trial that is known before it starts."""
    space, counts = ready.space, ready.dataset.counts
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    console.print(f"[bold]plan[/bold] {space.name}: {space.hypothesis or 'no hypothesis given'}")
    console.print(f"  data       {ready.dataset.name}: {images}, {ready.facts.num_classes} classes", highlight=False)
    for warning in (*ready.dataset.warnings, *_skipped(ready)):
        console.print(f"  [yellow]note[/yellow]       {warning}", highlight=False)
    size = ready.backbone.preprocessing.img_size
    frozen = f"{ready.backbone.num_parameters:,} parameters, {len(ready.backbone.trunk.blocks)} blocks, {size} px"
    console.print(f"  backbone   {space.backbone.name}: {frozen}", highlight=False)
    console.print(f"  protocol   {space.protocol}; seeds {', '.join(map(str, space.seeds))}", highlight=False)
    console.print(f"  search     {_search(ready)}", highlight=False)
    console.print(trainable_table(ready, planned_trials(ready)))


def trainable_table(ready: Prepared, trials: Sequence[TrialConfig]) -> Table:
    """What is trainable, before the first step: parameters of tuners, head and backbone, and a step's cost."""
    table = Table(title="what is trainable", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("trial")
    for name in ("tuners", "head", "backbone", "share", "step cost"):
        table.add_column(name, justify="right")
    for trial in trials:
        member = build_member(ready, trial)
        parts = member.num_parameters()
        total = ready.backbone.num_parameters + parts["tuners"] + parts["head"]
        numbers = [f"{parts[part]:,}" if parts[part] else "-" for part in ("tuners", "head", "backbone")]
        table.add_row(trial.name, *numbers, f"{sum(parts.values()) / total:.2%}", f"{step_cost(ready, member):.1f}x")
    return table


def step_cost(ready: Prepared, member: Member) -> float:
    """A training step's work in forwards of the frozen backbone, counted in blocks: what lies below is forward only."""
    num_blocks = len(ready.backbone.trunk.blocks)
    if member.first_depth is None:
        return 1.0
    # Backwards through a block costs one forward for the stream, and one more for weights that train themselves.
    passes = 1 if member.own_trunk is None else 2
    return 1.0 + passes * (num_blocks - member.first_depth) / num_blocks


def show_finished(finished: Finished, workspace: Workspace, ready: Prepared, console: Console) -> None:
    """Print the leaderboard, the promotion and what to do next."""
    name = ready.space.name
    console.print(leaderboard_table(finished.rows))
    verb = "promoted" if finished.decision.promote else "champion kept"
    console.print(f"{verb}: {finished.decision.reason}", highlight=False)
    console.print(f"search {finished.search_id} took {finished.seconds:.0f} s", highlight=False)
    console.print(f"next: utuning leaderboard {name}   |   utuning pull {name} --to DIR", highlight=False)
    console.print(f"      {ui_command(workspace)}", highlight=False, soft_wrap=True)


def ui_command(workspace: Workspace) -> str:
    """The one command that opens the MLflow UI on these runs."""
    return f"mlflow ui --backend-store-uri {workspace.tracking_uri} --host 127.0.0.1"


def show_predictions(predictions: Iterable[Prediction], console: Console) -> None:
    """Print the best class of each image and the runners-up."""
    for prediction in predictions:
        (label, share), *others = prediction.classes
        rest = ", ".join(f"{name} {value:.1%}" for name, value in others[:2])
        console.print(
            f"{prediction.image}: [bold]{label}[/bold] {share:.1%}   ({rest})", highlight=False, soft_wrap=True
        )


def _search(ready: Prepared) -> str:
    budget, space = ready.space.budget, ready.space
    stop = "no early stopping" if budget.scheduler == "none" else "ASHA stops early"
    varied = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in space.domains)) or "nothing"
    return f"{num_trials(space)} trials ({len(space.baselines)} baselines), {budget.searcher}, {stop}; varies {varied}"


def _skipped(ready: Prepared) -> list[str]:
    skipped = ready.dataset.skipped
    return [f"{len(skipped)} corrupt images were skipped: {', '.join(skipped[:3])}"] if skipped else []
