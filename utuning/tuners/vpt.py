"""Visual prompt tuning (VPT, arXiv 2203.12119): `vpt_shallow` before the first block, `vpt_deep` before every block."""

from math import prod
from typing import Annotated

import torch
from torch import Generator, Tensor, nn

from utuning.architectures import OpSite
from utuning.errors import PlacementError
from utuning.settings import AtLeast


class Prompt(nn.Module):
    """[x_cls; x_img] -> [x_cls; P; x_img], with a trainable prompt P of shape (1, M, D) without position embedding.

    P stands right before the image tokens, after whatever precedes them (class token, registers), and takes the place
    of the prompt of an earlier block if there is one. Parameters: MD for each block that has one. Not the identity at
    init. VPT's prompt dropout (0.1 deep, 0 shallow) is left out: nothing that a member draws while it trains may depend
    on how its batch is split over workers. All blocks of a configuration have equally many tokens.

    Args:
        site: the block that it stands in front of.
        num_tokens: M; 10 in U-Tuning's comparison. VPT chose it per dataset.
        patch_size: p of the initial values, U(-v, v) with v = sqrt(6 / (3 p^2 + D)); a block does not know its model's
            patches, so give it for a backbone whose patches are not 16 px wide. It decides nothing else.
        generator: source of the initial values.

    Raises:
        PlacementError: a block that takes no more tokens than the image has.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        num_tokens: Annotated[int, AtLeast(1)] = 10,
        patch_size: Annotated[int, AtLeast(1)] = 16,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self._num_image_tokens = num_image_tokens(site)
        self.prompt = uniform_prompt(num_tokens, site.width, patch_size, generator)

    def forward(self, x_BND: Tensor, num_present: int) -> Tensor:
        """Put the prompt into the stream, (B, N, D) -> (B, N - num_present + M, D)."""
        return put_prompt(x_BND, self.prompt, self._num_image_tokens, num_present)


def num_image_tokens(site: OpSite) -> int:
    """How many tokens of a stream are the image's: its last ones.

    Raises:
        PlacementError: the site takes no more tokens than these.
    """
    if site.grid is None or not site.open_sequence:
        raise PlacementError(
            f"a prompt cannot enter the block at depth {site.depth}: it takes exactly the tokens that the image gives, "
            "as windows, convolutions and rotary positions do; use p_prompt, which adds none and needs attention only"
        )
    return prod(site.grid)


def uniform_prompt(num_tokens: int, width: int, patch_size: int, generator: Generator) -> nn.Parameter:
    """Trainable tokens (1, M, D) from U(-v, v), v = sqrt(6 / (3 p^2 + D)): Xavier's bound for the patch projection."""
    bound = (6.0 / (3 * patch_size**2 + width)) ** 0.5
    prompt = nn.Parameter(torch.empty(1, num_tokens, width))
    nn.init.uniform_(prompt, -bound, bound, generator=generator)
    return prompt


def put_prompt(x_BND: Tensor, prompt_BMD: Tensor, num_image: int, num_present: int) -> Tensor:
    """Put a prompt, of each image or (1, M, D) of all, before the image tokens, in the place of one that is there."""
    first = x_BND.shape[1] - num_image - num_present
    prompt = prompt_BMD.to(x_BND.dtype).expand(x_BND.shape[0], -1, -1)
    return torch.cat([x_BND[:, :first], prompt, x_BND[:, first + num_present :]], dim=1)
