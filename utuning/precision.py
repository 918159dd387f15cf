"""In which precision a device computes."""

from contextlib import AbstractContextManager

import torch

from utuning.configs import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision while it lasts: `auto` is bf16 on a GPU and fp32 on a CPU."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
