"""A trial's tuners in words, for people who read a manifest or a card."""

from collections.abc import Sequence

from utuning.configs import Depths, TunerConfig
from utuning.tuners.rows import tuner_row

ROLES = {
    "beside": "beside {}",
    "instead": "instead of {}",
    "inside": "inside {}",
    "tokens": "as tokens that enter {}",
    "side": "as a side network over {}",
}
WHOLE = {"weights": "copies of the backbone's own weights", "head": "a head of its own"}


def placement_in_words(tuners: Sequence[TunerConfig]) -> tuple[str, ...]:
    """One line for each tuner: what it is, where it stands, its settings."""
    return tuple(map(_tuner, tuners)) or ("a linear head alone",)


def _tuner(tuner: TunerConfig) -> str:
    row = tuner_row(tuner.method)
    settings = "".join(f"; {name} {_value(value)}" for name, value in sorted(tuner.settings.items()))
    if row.parts:
        parts = " and ".join(dict.fromkeys(part.method for part in row.parts))
        return f"{tuner.method}: {parts} in {_depths(tuner.depths or row.default_depths)}{settings}"
    if row.role in WHOLE:
        return f"{tuner.method}: {WHOLE[row.role]}{settings}"
    blocks, kinds = _depths(tuner.depths or row.default_depths), " and ".join(tuner.ops or row.default_ops)
    where = f"{kinds} in {blocks}" if kinds and row.role not in ("tokens", "side") else blocks
    return f"{tuner.method}: {ROLES[row.role].format(where)}{settings}"


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _depths(depths: Depths) -> str:
    if not isinstance(depths, str):
        return f"block{'s' if len(depths) != 1 else ''} {', '.join(map(str, depths))}"
    word, _, count = depths.partition(":")
    if word == "all":
        return "all blocks"
    return f"the {word} {count} blocks" if count else f"the {word} block"
