"""In which precision a device computes."""

from contextlib import AbstractContextManager, nullcontext

import torch

from utuning.configs import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision while it lasts: `auto` is bf16 on a GPU and fp32 on a CPU."""
    if device.type == "meta":  # where shapes are counted there is nothing to be precise about
        return nullcontext()
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
