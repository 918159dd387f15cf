"""The learning rate of a step, as a pure function."""

import math

FINAL_FRACTION = 1e-3


def lr_fraction(step: int, num_steps: int, warmup_steps: int) -> float:
    """Fraction of the peak rate at `step` (from 0): a linear warm-up that never starts at zero, then a cosine to 1e-3.

    The warm-up's last step runs at the peak. VPT's released schedule spends its first epoch at rate 0; this does not.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return FINAL_FRACTION + (1 - FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
