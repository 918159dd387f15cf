"""A stand-in for DVPT (arXiv 2309.06123): a prompt that a small network makes from each image.

Of that paper only the abstract was available: a Meta-Net makes an instance-wise prompt. Its formula is not published
where it could be found, so what stands here is not that method and says nothing about its results.
"""

from typing import Annotated

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import gelu, linear

from utuning.architectures import OpSite
from utuning.linear import xavier_linear
from utuning.settings import AtLeast
from utuning.tuners.vpt import num_image_tokens, put_prompt, uniform_prompt


class InstancePrompt(nn.Module):
    """STAND-IN for DVPT: P(x) = P0 + reshape_MD(gelu(mean_n(x_n) Wdown + bdown) Wup), n over the image tokens of x.

    x is the stream that enters the block, without a norm; in front of the first block it is the embedded image. P(x)
    stands where VPT's prompt does, see `utuning.tuners.vpt`. All of it is decided here, none taken from the paper.
    P0 is Wup's bias in all but name. Parameters for M tokens, width D, bottleneck r: MD + Dr + r + rMD.
    At init Wup is 0, so P(x) = P0, VPT's own prompt.

    Args:
        site: the block that it stands in front of.
        num_tokens: M.
        bottleneck_dim: r, the width between the two projections.
        patch_size: as in `utuning.tuners.vpt.Prompt`, for the initial values of P0.
        generator: source of the initial values; Wdown is Xavier-uniform, its bias 0.

    Raises:
        PlacementError: a block that takes no more tokens than the image has.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        num_tokens: Annotated[int, AtLeast(1)] = 10,
        bottleneck_dim: Annotated[int, AtLeast(1)] = 8,
        patch_size: Annotated[int, AtLeast(1)] = 16,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self._num_image_tokens = num_image_tokens(site)
        self.prompt = uniform_prompt(num_tokens, site.width, patch_size, generator)
        self.down = xavier_linear(site.width, bottleneck_dim, generator)
        self.up = nn.Parameter(torch.zeros(num_tokens * site.width, bottleneck_dim))

    def forward(self, x_BND: Tensor, num_present: int) -> Tensor:
        """Put each image's prompt into the stream, (B, N, D) -> (B, N - num_present + M, D)."""
        mean_BD = x_BND[:, -self._num_image_tokens :].mean(dim=1)
        change_BMD = linear(gelu(self.down(mean_BD)), self.up).view(x_BND.shape[0], self.num_tokens, -1)
        return put_prompt(x_BND, self.prompt + change_BMD, self._num_image_tokens, num_present)
