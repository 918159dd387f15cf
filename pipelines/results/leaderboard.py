"""Runs made comparable: one row a configuration, ranked by val accuracy. Pure functions over values.

What was not measured is None, and never a made-up number.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from pipelines.tracking.records import RunRecord
from utuning.data.protocols import AS_GIVEN
from utuning.tuners import ROWS

# Which of a configuration's runs count: the most finished ones.
OUTCOMES = ("completed", "stopped", "running", "failed")
FINISHED = OUTCOMES[:2]
STAND_INS = frozenset(row.name for row in ROWS if row.stand_in)
MISSING = "–"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration: means over its seeds, accuracies from 0 to 1, `_ci` the half-width of the 95 % interval.

    `place` is None for what cannot be ranked, and `note` says why. `test_seeds` are the seeds that `test` is a mean of.
    `stand_in` marks a method that is not the published one that it stands for. `peak_memory_bytes` is the largest of
    the seeds. `outcome` is that of the runs that count: the most finished ones. `run_ids` are the search's runs,
    `test_run_ids` those that `test` is of; `test_from` are the splits that they were trained on, `val_from` says where
    val comes from, and `subset`, `data_images` and `data_warnings` what to know of the data. `weights` is where the
    backbone's came from, `test_count` how many images test has. `input_wait` is the share of the last epoch's training
    that was spent waiting for images.
    """

    place: int | None
    label: str
    method: str
    config_id: str
    val: float | None
    val_ci: float | None
    test: float | None
    test_ci: float | None
    seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    trainable_params: int | None
    bundle_bytes: int | None
    train_time_s: float | None
    peak_memory_bytes: int | None
    images_per_s: float | None
    protocol: str
    outcome: str
    champion: bool
    dataset: str
    data_fingerprint: str
    backbone: str
    backbone_fingerprint: str
    run_ids: tuple[str, ...]
    note: str = ""
    stand_in: bool = False
    test_run_ids: tuple[str, ...] = ()
    test_from: tuple[str, ...] = ()
    val_from: str = ""
    subset: bool = False
    data_images: str = AS_GIVEN
    data_warnings: tuple[str, ...] = ()
    weights: str = ""
    test_count: int | None = None
    input_wait: float | None = None


def rows(runs: Iterable[RunRecord], champion_run_id: str | None = None, search_id: str | None = None) -> list[Row]:
    """Rank the configurations of a space, or of one of its searches.

    Of several runs of one trial the newest finished one counts. Places are given among the runs on the newest
    (data fingerprint, protocol, backbone fingerprint) alone; all others follow without a place.
    """
    kept = [run for run in runs if search_id is None or run.search_id == search_id]
    if not kept:
        return []
    ranked = _ranked_group(kept)
    made = [_row(group, champion_run_id, ranked) for group in _grouped(kept, lambda run: run.trial.config_id)]
    places = iter(range(1, len(made) + 1))
    return [row if row.note else replace(row, place=next(places)) for row in sorted(made, key=_order)]


def t_quantile(degrees: int) -> float:
    """Give the 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def half_width(values: Sequence[float]) -> float | None:
    """Give the half-width of the 95 % confidence interval of the mean; None for fewer than two values."""
    count = len(values)
    return t_quantile(count - 1) * stdev(values) / count**0.5 if count > 1 else None


def as_json(rows: Sequence[Row], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows, and where they come from, as plain values for a JSON file."""
    return {"provenance": dict(provenance), "rows": [asdict(row) for row in rows]}


def as_markdown(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table."""
    rule = ["---:" if right else "---" for _, right in COLUMNS]
    lines = [[name for name, _ in COLUMNS], rule, *(_bold(row, cells(row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def input_note(rows: Sequence[Row]) -> str:
    """Say how much of its time training waited for images; nothing where it was not measured."""
    waits = [row.input_wait for row in rows if row.input_wait is not None]
    if not waits:
        return ""
    return f"Training waited for images {fmean(waits):.1%} of its time, at most {max(waits):.1%} (`input_wait`)."


# Heading, and whether the column holds numbers.
COLUMNS = (
    ("#", True),
    ("configuration", False),
    ("method", False),
    ("val %", True),
    ("test %", True),
    ("seeds", True),
    ("trainable", True),
    ("bundle", True),
    ("train time", True),
    ("peak memory", True),
    ("img/s", True),
    ("protocol", False),
    ("outcome", False),
)


def cells(row: Row) -> list[str]:
    """Write a row's values for people, in the order of `COLUMNS`."""
    partly = "" if row.test is None or row.test_seeds == row.seeds else f" (n={len(row.test_seeds)})"
    return [
        f"{row.place or MISSING}{' ★' if row.champion else ''}",
        f"{row.label}{' (stand-in)' if row.stand_in else ''}",
        row.method,
        _percent(row.val, row.val_ci),
        _percent(row.test, row.test_ci) + partly,
        str(len(row.seeds)),
        _shown(row.trainable_params, "{:,}"),
        _size(row.bundle_bytes),
        _shown(row.train_time_s, "{:,.1f} s"),
        _size(row.peak_memory_bytes),
        _shown(row.images_per_s, "{:,.0f}"),
        row.protocol,
        f"{row.outcome}{f' ({row.note})' if row.note not in ('', row.outcome) else ''}",
    ]


def _grouped(runs: Iterable[RunRecord], key: Callable[[RunRecord], str]) -> list[list[RunRecord]]:
    groups: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return list(groups.values())


def _ranked_group(runs: Sequence[RunRecord]) -> tuple[str, str, str]:
    measured = [run for run in runs if run.outcome in FINISHED and "val/accuracy" in run.metrics]
    return _conditions(max(measured or runs, key=lambda run: (run.start_time, run.run_id)))


def _conditions(run: RunRecord) -> tuple[str, str, str]:
    return run.trial.data_fingerprint, run.trial.protocol, run.trial.backbone_fingerprint


def _stage(run: RunRecord) -> int:
    return OUTCOMES.index(run.outcome) if run.outcome in OUTCOMES else len(OUTCOMES)


def _counting(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Take the newest of the most finished runs of each trial, and of the trials the most finished ones."""
    newest = [
        min(trial, key=lambda run: (_stage(run), -run.start_time, run.run_id))
        for trial in _grouped(runs, lambda run: run.trial.trial_id)
    ]
    stage = min(map(_stage, newest))
    return sorted((run for run in newest if _stage(run) == stage), key=lambda run: run.trial.train.seed)


def _tested(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Take the newest run of each trial that was measured on test."""
    measured = [run for run in runs if run.outcome == "completed" and "test/accuracy" in run.metrics]
    newest = [
        max(same, key=lambda run: (run.start_time, run.run_id))
        for same in _grouped(measured, lambda run: run.trial.trial_id)
    ]
    return sorted(newest, key=lambda run: run.trial.train.seed)


def _row(group: Sequence[RunRecord], champion_run_id: str | None, ranked: tuple[str, str, str]) -> Row:
    runs, tested = _counting([run for run in group if not run.final] or group), _tested(group)
    trial, outcome = runs[0].trial, runs[0].outcome
    val, test = _values(runs, "val/accuracy"), _values(tested, "test/accuracy")
    return Row(
        place=None,
        label=trial.label,
        method=trial.method,
        config_id=trial.config_id,
        val=_mean(val),
        val_ci=half_width(val),
        test=_mean(test),
        test_ci=half_width(test),
        seeds=tuple(run.trial.train.seed for run in runs),
        test_seeds=tuple(run.trial.train.seed for run in tested),
        trainable_params=_largest(runs, "trainable_params"),
        bundle_bytes=_largest(runs, "bundle_bytes"),
        train_time_s=_mean(_values(runs, "train_time_s")),
        peak_memory_bytes=_largest(runs, "peak_memory_bytes"),
        images_per_s=_mean(_values(runs, "images_per_s")),
        protocol=trial.protocol,
        outcome=outcome,
        champion=champion_run_id in {run.run_id for run in group},
        dataset=trial.dataset,
        data_fingerprint=trial.data_fingerprint,
        backbone=trial.backbone,
        backbone_fingerprint=trial.backbone_fingerprint,
        run_ids=tuple(run.run_id for run in runs),
        note=_why_unranked(runs[0], bool(val), ranked),
        input_wait=_mean(_values(runs, "input_wait")),
        stand_in=any(tuner.method in STAND_INS for tuner in trial.tuners),
        test_run_ids=tuple(run.run_id for run in tested),
        test_from=tested[0].trial.train_splits if tested else (),
        val_from=runs[0].val_from,
        subset=runs[0].subset,
        data_images=runs[0].data_images,
        data_warnings=runs[0].data_warnings,
        weights=runs[0].weights,
        test_count=_largest(tested, "test/count"),
    )


def _why_unranked(run: RunRecord, measured: bool, ranked: tuple[str, str, str]) -> str:
    if run.outcome not in FINISHED:
        return run.outcome
    if run.trial.data_fingerprint != ranked[0]:
        return "other data"
    if run.trial.protocol != ranked[1]:
        return "other protocol"
    if run.trial.backbone_fingerprint != ranked[2]:
        return "other backbone"
    return "" if measured else "no val"


def _order(row: Row) -> tuple[bool, bool, float, float, str]:
    params = float("inf") if row.trainable_params is None else row.trainable_params
    return bool(row.note), row.val is None, -(row.val or 0.0), params, row.config_id


def _values(runs: Iterable[RunRecord], key: str) -> list[float]:
    return [run.metrics[key] for run in runs if key in run.metrics]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _largest(runs: Iterable[RunRecord], key: str) -> int | None:
    return max((int(value) for value in _values(runs, key)), default=None)


def _shown(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)


def _percent(value: float | None, ci: float | None) -> str:
    return _shown(value, "{:.1%}").removesuffix("%") + ("" if ci is None else f" ± {100 * ci:.1f}")


def _size(count: int | None) -> str:
    if count is None:
        return MISSING
    megabytes = count / 1e6
    return f"{megabytes:,.2f} MB" if megabytes < 10 else f"{megabytes:,.0f} MB"


def _bold(row: Row, texts: list[str]) -> list[str]:
    return [f"**{text}**" for text in texts] if row.champion else texts
