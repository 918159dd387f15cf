"""Whether an exported graph answers what the bundle answers, as numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from utuning.errors import ConfigError
from utuning.exporting.families import MASKED

TOLERANCE = 1e-4
"""Largest difference of a logit, in units of the largest logit (or of 1, where all are smaller)."""
BATCH_SIZES = (1, 3)
LEAST = MASKED / 10
"""Logits below are those of classes that a row has not."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A comparison: the largest difference of a logit and of a probability, and how many first classes are the same."""

    images: str
    num_rows: int
    batch_size: int
    logit_difference: float
    relative_difference: float
    probability_difference: float
    same_class: int


def compare(images: str, run: Callable[[slice], Tensor], expected_RC: Tensor) -> list[Check]:
    """Run all rows in batches of each size, and compare with the logits that the bundle gives.

    Args:
        images: what the images are called.
        run: gives the graph's logits of some of the rows.
        expected_RC: logits; those of classes that a row has not are `MASKED`.
    """
    checks = []
    expected_RC = expected_RC.clamp(min=LEAST)
    for size in BATCH_SIZES:
        found_RC = torch.cat([run(slice(at, at + size)) for at in range(0, len(expected_RC), size)]).clamp(min=LEAST)
        difference = float((found_RC - expected_RC).abs().max())
        probabilities = (found_RC.softmax(-1) - expected_RC.softmax(-1)).abs().max()
        checks.append(
            Check(
                images=images,
                num_rows=len(expected_RC),
                batch_size=size,
                logit_difference=difference,
                relative_difference=difference / max(1.0, float(expected_RC[expected_RC > LEAST].abs().max())),
                probability_difference=float(probabilities),
                same_class=int((found_RC.argmax(-1) == expected_RC.argmax(-1)).sum()),
            )
        )
    return checks


def check_parity(checks: Sequence[Check], form: str) -> None:
    """Check that every comparison is within the tolerance.

    Raises:
        ConfigError: one is not.
    """
    for check in checks:
        if not check.relative_difference <= TOLERANCE:
            raise ConfigError(
                f"the {form} graph answers otherwise than the bundle: over {check.num_rows} rows of {check.images} in "
                f"batches of {check.batch_size}, logits differ by {check.logit_difference:.1e}, which is "
                f"{check.relative_difference:.1e} of the largest; allowed: {TOLERANCE:g}; "
                f"{check.same_class} of {check.num_rows} first classes are the same; nothing was written"
            )


def report(checks: Sequence[Check], versions: Mapping[str, str]) -> dict[str, Any]:
    """What is written beside the graph."""
    return {"tolerance": TOLERANCE, "checks": [asdict(check) for check in checks], "versions": dict(versions)}
