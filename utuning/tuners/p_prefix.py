"""P-Prefix, the parallel prefix of U-Tuning (arXiv 2303.00690, fig. 4b)."""

from typing import Annotated

from torch import Generator, Tensor, nn

from utuning.architectures import OpSite
from utuning.settings import AtLeast
from utuning.tuners.attending import Init, attend, attention_of, scale_for, split_heads, xavier_tokens
from utuning.tuners.scale import ScaleName


class PPrefix(nn.Module):
    """U(x) = s * Attn(Q, Kpre, Vpre) Wo, with trainable Kpre and Vpre of shape (1, M, H * d) beside a frozen op.

    Nothing that was found says where Q comes from or what follows the attention. Decided here:
    Q = LN1(x) Wq + bq, the frozen queries of the site's own block, at `mlp` and `block` sites too; the attention is
    multi-head with the block's heads and 1/sqrt(d); its result goes through the frozen Wo, without Wo's bias (OP(x) has
    it already) and with the block's layer scale. x is the residual stream before any norm.
    Parameters for width D = H * d: 2MD, and the scale's.

    Args:
        site: the op site it stands beside; its block must have attention.
        num_tokens: M; 10 is what the authors' parameter counts fit. At least 2: the softmax over a single key is 1
            whatever the key is, so that Kpre could not learn.
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
        num_tokens: Annotated[int, AtLeast(2)] = 10,
        scale: ScaleName = "channel",
        init: Init = "xavier",
        generator: Generator,
    ) -> None:
        super().__init__()
        self._attention = attention_of(site, "p_prefix")
        inner = self._attention.num_heads * self._attention.head_dim
        self.key = xavier_tokens(num_tokens, inner, generator)
        self.value = xavier_tokens(num_tokens, inner, generator)
        self.scale = scale_for(init, scale, site.width, generator)

    def forward(self, x_BND: Tensor, op_BND: Tensor) -> Tensor:
        """Map the stream to what is added beside the op, both (B, N, D)."""
        k_1HMd, v_1HMd = (split_heads(t, self._attention.num_heads) for t in (self.key, self.value))
        z_BHNd = attend(self._attention.queries(x_BND), k_1HMd, v_1HMd)
        added: Tensor = self.scale(self._attention.output(z_BHNd, False))
        return added
