"""The part of the preprocessing that every graph has inside."""

import torch
from torch import Tensor, nn

from utuning.data.preprocessing import Preprocessing


class Pixels(nn.Module):
    """uint8 images -> (images / 255 - mean) / std, float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Scale images (B, 3, S, S)."""
        return (images.to(torch.float32) / 255 - self.mean) / self.std
