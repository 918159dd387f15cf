"""What the command line prints: plans, what is trainable, results."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from pipelines.planning.ahead import Ahead
from pipelines.planning.forecast import Forecast
from pipelines.planning.plan import Prepared, planned_trials
from pipelines.results.render import table as leaderboard_table
from pipelines.search.search import Finished
from pipelines.workspace import Workspace
from search_spaces.space import SearchSpace
from utuning.configs import TrialConfig
from utuning.data.protocols import FINAL_SEEDS, find_protocol
from utuning.member import Member
from utuning.predict import Prediction

SCHEDULERS = {
    "none": "no early stopping",
    "asha": "ASHA stops early",
    "median": "what is below the median stops early",
    "pbt": "the worst go on from the best",
}


def show_plan(ready: Prepared, console: Console) -> None:
    """Print what a search will do: data, backbone, and every trial that is known before it starts."""
    space, counts = ready.space, ready.dataset.counts
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    console.print(f"[bold]plan[/bold] {space.name}: {space.hypothesis or 'no hypothesis given'}")
    console.print(f"  data       {ready.dataset.name}: {images}, {ready.facts.num_classes} classes", highlight=False)
    for warning in (*ready.dataset.warnings, *ready.notes, *_skipped(ready)):
        console.print(f"  [yellow]note[/yellow]       {warning}", highlight=False)
    size = ready.backbone.preprocessing.img_size
    frozen = f"{ready.backbone.num_parameters:,} parameters, {len(ready.backbone.trunk.blocks)} blocks, {size} px"
    console.print(f"  backbone   {space.backbone.name}: {frozen}", highlight=False)
    console.print(f"  protocol   {space.protocol}; seeds {', '.join(map(str, space.seeds))}", highlight=False)
    console.print(f"  search     {_search(ready)}", highlight=False)
    console.print(f"  finals     {_finals(ready)}", highlight=False)
    console.print(trainable_table(ready, planned_trials(ready)))
    if ready.warm is not None:
        console.print(f"  warm start {ready.warm.note}", highlight=False, soft_wrap=True)
        for place, each in enumerate(ready.proposals, 1):
            said = f"    {place:>2}. {each.label}: {each.reason}"
            console.print(said, highlight=False, markup=False, soft_wrap=True)


def show_forecast(forecast: Forecast, console: Console) -> None:
    """Print what a search will cost."""
    for name, text in _forecast_lines(forecast).items():
        console.print(f"  {name:<10} {text}", highlight=False, soft_wrap=True)
    for note in forecast.notes:
        console.print(f"  [yellow]note[/yellow]       {note}", highlight=False, soft_wrap=True)


def show_ahead(space: SearchSpace, ahead: Ahead, console: Console) -> None:
    """Print what was counted of a search whose data are not there."""
    images = ", ".join(f"{count:,} {split}" for split, count in ahead.counts.items())
    ratio = ahead.flops_isolated / ahead.flops
    lines = {
        "data": f"{space.dataset.source} as published: {images}, {ahead.num_classes} classes",
        "trials": f"{ahead.num_trials}, all to their end; {SCHEDULERS[space.budget.scheduler]}",
        "FLOPs": f"{ahead.flops:.1e} together, {ahead.flops_isolated:.1e} alone: {ratio:.1f}x less",
        "memory": f"{_gb(ahead.peak_bytes)} GB for the largest trial alone, fp32; cached states "
        f"{_gb(ahead.cached_bytes)} GB",
    }
    console.print(f"[bold]ahead[/bold] {space.name}: {space.hypothesis or 'no hypothesis given'}", highlight=False)
    for name, text in lines.items():
        console.print(f"  {name:<10} {text}", highlight=False, soft_wrap=True)
    for note in ahead.notes:
        console.print(f"  [yellow]note[/yellow]       {note}", highlight=False, soft_wrap=True)


def trainable_table(ready: Prepared, trials: Sequence[TrialConfig]) -> Table:
    """What is trainable, before the first step: parameters of tuners, head and backbone, and a step's cost."""
    table = Table(title="what is trainable", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("trial")
    for name in ("tuners", "head", "backbone", "share", "step cost"):
        table.add_column(name, justify="right")
    for trial in trials:
        member = Member.from_trial(ready.backbone, trial)
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
    for line in measured(finished):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"next: utuning leaderboard {name}   |   utuning pull {name} --to DIR", highlight=False)
    console.print(f"      {ui_command(workspace)}", highlight=False, soft_wrap=True)


def measured(finished: Finished) -> list[str]:
    """What a search took, beside what was predicted."""
    predicted = finished.predicted
    said = f"predicted {predicted['seconds']:.0f} s" if predicted else "`utuning plan` would predict it"
    lines = [f"search {finished.search_id} took {finished.seconds:.0f} s; {said}"]
    if finished.peak_bytes:
        planned = f"; predicted {_gb(predicted['peak_bytes'])} GB" if "peak_bytes" in predicted else ""
        lines.append(f"a worker had {_gb(finished.peak_bytes)} GB of memory at most{planned}")
    if (spared := finished.spared).seconds >= 1:
        groups = _count(spared.groups, "worker group")
        lines.append(f"cohorts spared about {spared.seconds:.0f} s ({groups} not started)")
    return lines


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
    stop = SCHEDULERS[budget.scheduler]
    varied = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in space.domains)) or "nothing"
    return f"{space.num_trials} trials ({len(space.baselines)} baselines), {budget.searcher}, {stop}; varies {varied}"


def _finals(ready: Prepared) -> str:
    """What is measured on test, and what is trained for that."""
    space, protocol = ready.space, find_protocol(ready.space.protocol)
    who = "the best configuration" + (" and the baselines" if space.finals.baselines and space.baselines else "")
    seeds = f"seeds {', '.join(map(str, space.final_seeds))}"
    more = set(space.final_seeds) - set(space.seeds)
    how = f", trained again on {' and '.join(protocol.final_splits)}" if protocol.trains_again else ""
    new = f", of which {', '.join(map(str, sorted(more)))} are trained for it" if more and not how else ""
    few = "" if len(space.final_seeds) >= len(FINAL_SEEDS) else f"; fewer than {len(FINAL_SEEDS)} seeds"
    return f"{who} on test, once: {seeds}{how}{new}{few}"


def _skipped(ready: Prepared) -> list[str]:
    skipped = ready.dataset.skipped
    return [f"{len(skipped)} corrupt images were skipped: {', '.join(skipped[:3])}"] if skipped else []


def _forecast_lines(forecast: Forecast) -> dict[str, str]:
    states = f"cached states {_gb(forecast.cached_bytes)} of {_gb(forecast.cache_bytes)} GB"
    ratio = forecast.flops_isolated / forecast.flops
    return {
        "cohorts": _cohorts(forecast),
        "shared": _shared(forecast),
        "FLOPs": f"{forecast.flops:.1e} together, {forecast.flops_isolated:.1e} alone: {ratio:.1f}x less",
        "memory": f"{_gb(forecast.peak_bytes_per_worker)} GB a worker at most; {states}",
        "time": f"about {forecast.seconds:.0f} s, {forecast.seconds_isolated:.0f} s with --isolated; training "
        f"{forecast.images_per_s:,.0f} img/s (calibrated in {forecast.calibration_s:.0f} s on this machine)",
    }


def _cohorts(forecast: Forecast) -> str:
    """How many cohorts, waves and workers."""
    layout, members = forecast.layout, forecast.members_per_cohort
    most = f"{len({wave.cohort_key for wave in forecast.waves})} of {_count(members, 'member')} at most"
    short = f", as memory does not allow {forecast.max_members}" if members < forecast.max_members else ""
    side = f", {layout.num_cohorts} side by side" if layout.num_cohorts > 1 else ""
    return f"{most}{short}, {_count(len(forecast.waves), 'wave')}{side}; {_count(layout.num_workers, 'worker')} each"


def _shared(forecast: Forecast) -> str:
    """By how many trials how many blocks are shared, the most blocks first."""
    names = {forecast.num_blocks: f"all {forecast.num_blocks}", 0: "none"}
    (most, count), *others = sorted(forecast.shared_blocks.items(), reverse=True)
    trials = _count(sum(forecast.shared_blocks.values()), "trial")
    first = "none" if most == 0 else f"{names.get(most, f'the first {most}')} blocks' frozen states"
    rest = [f"{names.get(blocks, f'the first {blocks}')} by {number}" for blocks, number in others]
    return ", ".join([f"{first} by {count} of {trials}", *rest])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _gb(num_bytes: float) -> str:
    gigabytes = num_bytes / 1e9
    return f"{gigabytes:,.0f}" if gigabytes >= 100 else f"{gigabytes:.2g}"
