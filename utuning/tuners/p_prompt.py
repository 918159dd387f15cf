"""P-Prompt, the parallel prompt of U-Tuning (arXiv 2303.00690, fig. 4b)."""

from typing import Annotated

from torch import Generator, Tensor, nn

from utuning.architectures import OpSite
from utuning.settings import AtLeast
from utuning.tuners.attending import Init, attend, attention_of, scale_for, xavier_tokens
from utuning.tuners.scale import ScaleName


class PPrompt(nn.Module):
    """U(x) = s * Attn(Q, P Wk, P Wv) Wo, with a trainable prompt P of shape (1, M, D) and frozen Wk, Wv.

    Queries, heads and Wo are decided as for `PPrefix`: the paper leaves them open. Also decided here: P goes through
    the block's LN1, Wk and Wv with their biases, Kpro = LN1(P) Wk + bk, as a prompt in the stream would. That makes the
    identity with VPT-deep exact: its image rows are (1 - lambda) Attn(Q, K, V) + lambda Attn(Q, Kpro, Vpro).
    A prompt has no position; no rotary embedding is applied to it. Parameters: MD, and the scale's.

    Args:
        site: the op site it stands beside; its block must have attention.
        num_tokens: M; 10 is what the authors' parameter counts fit.
        scale: s, see `utuning.tuners.scale`.
        init: `xavier` is the authors', see `xavier_tokens`: not the identity at init. `zero_scale` draws the same and
            starts the scale at 0: the identity at init; it needs scale `scalar` or `channel`.
        generator: source of the initial values.

    Raises:
        PlacementError: a block without attention.
        ConfigError: `zero_scale` with a scale that cannot start at 0.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        num_tokens: Annotated[int, AtLeast(1)] = 10,
        scale: ScaleName = "channel",
        init: Init = "xavier",
        generator: Generator,
    ) -> None:
        super().__init__()
        self._attention = attention_of(site, "p_prompt")
        self.prompt = xavier_tokens(num_tokens, site.width, generator)
        self.scale = scale_for(init, scale, site.width, generator)

    def forward(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Map the stream to what is added beside the op, both (B, N, D)."""
        k_1HMd, v_1HMd = self._attention.placeless(self.prompt)
        z_BHNd = attend(self._attention.queries(x_BND), k_1HMd, v_1HMd)
        added: Tensor = self.scale(self._attention.output(z_BHNd, False))
        return added
