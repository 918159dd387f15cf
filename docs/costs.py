"""Writes docs/costs.md: what each tier of the spaces of known data sets will cost, as `utuning plan --ahead` counts it.

    python docs/costs.py

Each kind of trial is stepped on shapes alone: some ten minutes on one core, most of it for the tiers `paper`.
"""

from pathlib import Path

from cluster.profile import load_profile
from pipelines.planning.ahead import Ahead, look_ahead
from search_spaces.loader import load_space
from utuning.data.fgvc.table import READERS

PAGE = Path(__file__).parent / "costs.md"
TIERS = ("smoke", "small", "paper")
HEADING = (
    "space", "tier", "train + val images", "trials", "FLOPs together", "alone", "times less", "GB of the largest trial",
    "GB of cached states",
)  # fmt: skip
UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1.0, ""))
ABOUT = """# Expected cost of the spaces

Counted by `utuning plan SPACE --tier TIER --ahead`, with neither data nor weights; written by `python docs/costs.py`.
Trials are those of the search, the baselines, and what finals train besides. All run to their end and from an empty
cache: where ASHA stops trials early, as in `small` and `paper`, a search takes less. *Together* is in cohorts of the
profile `local` (at most 8 members), *alone* is each trial for itself. Memory is that of the backbone and the largest
trial in fp32, on one worker that has the whole batch; more workers share it.

These are counts, the same on every machine, and no seconds. 1 P is 10^15 floating-point operations (1 T 10^12, 1 G
10^9; a multiplication and an addition are two), or 10 s on a device that sustains 100 T a second. Without `--ahead`,
`utuning plan SPACE --tier TIER` measures the machine that it runs on, and predicts seconds.
"""


def line(name: str, tier: str, ahead: Ahead) -> str:
    """A row of the table."""
    cells = (
        name,
        tier,
        f"{ahead.counts['train']:,} + {ahead.counts['val']:,}",
        f"{ahead.num_trials}",
        _flops(ahead.flops),
        _flops(ahead.flops_isolated),
        f"{ahead.flops_isolated / ahead.flops:.1f}",
        _rounded(ahead.peak_bytes / 1e9),
        _rounded(ahead.cached_bytes / 1e9),
    )
    return f"| {' | '.join(cells)} |\n"


def _flops(value: float) -> str:
    size, unit = next((size, unit) for size, unit in UNITS if value >= size)
    return f"{_rounded(value / size)} {unit}"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def main() -> None:
    """Count all tiers, and write the page."""
    profile = load_profile("local")
    rule = ("---", "---", *["---:"] * (len(HEADING) - 2))
    text = f"{ABOUT}\n| {' | '.join(HEADING)} |\n| {' | '.join(rule)} |\n"
    for name in READERS:
        for tier in TIERS:
            row = line(name, tier, look_ahead(load_space(name, tier=tier), profile))
            print(row, end="", flush=True)
            text += row
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
