"""Prefix tuning in its original form (Li and Liang, arXiv 2101.00190), for the attention of a vision transformer."""

from typing import Annotated, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from utuning.architectures import OpSite
from utuning.errors import PlacementError
from utuning.settings import AtLeast
from utuning.tuners.attending import attention_of, split_heads, xavier_tokens

NORMAL_STD = 0.02


class PrefixTuning(nn.Module):
    """MHA'(x) = Attn(Q, [K; Kpre], [V; Vpre]) Wo + bo, in the place of the frozen attention op.

    Q, K, V are the op's own frozen projections of LN1(x); Kpre and Vpre, (1, M, H * d), are trainable and stand after
    the real keys. They are direct, without the MLP that may make them in language models, and 2MD parameters a layer.
    Not the identity at init: a prefix draws attention away from the image. Dropout and drop-path inside the attention
    are off in a frozen backbone, so none is applied here.

    Args:
        site: an `attn` site where every token attends to all others.
        num_tokens: M, 10 in U-Tuning's comparison.
        init: `xavier` is U-Tuning's authors', see `xavier_tokens`; `normal` is N(0, 0.02), usual for direct prefixes.
        generator: source of the initial values.

    Raises:
        PlacementError: no attention, or one over windows.
    """

    def __init__(
        self,
        site: OpSite,
        *,
        num_tokens: Annotated[int, AtLeast(1)] = 10,
        init: Literal["xavier", "normal"] = "xavier",
        generator: Generator,
    ) -> None:
        super().__init__()
        self._attention = attention_of(site, "prefix_tuning")
        if not self._attention.whole:
            raise PlacementError(
                f"prefix_tuning cannot stand at {site.kind} at depth {site.depth}: its attention is over a part of the "
                "tokens, not over all; use p_prefix, which stands beside it"
            )
        inner = self._attention.num_heads * self._attention.head_dim
        self.key = xavier_tokens(num_tokens, inner, generator)
        self.value = xavier_tokens(num_tokens, inner, generator)
        if init == "normal":
            for tokens in (self.key, self.value):
                nn.init.normal_(tokens, std=NORMAL_STD, generator=generator)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Map the stream to what replaces the attention's output, both (B, N, D)."""
        q_BHNd, k_BHNd, v_BHNd = self._attention.project(x_BND)
        k, v = self._with_prefix(k_BHNd, self.key), self._with_prefix(v_BHNd, self.value)
        return self._attention.output(scaled_dot_product_attention(q_BHNd, k, v), True)

    def _with_prefix(self, own_BHNd: Tensor, prefix_1MI: Tensor) -> Tensor:
        prefix_1HMd = split_heads(prefix_1MI, self._attention.num_heads).to(own_BHNd.dtype)
        return torch.cat([own_BHNd, prefix_1HMd.expand(own_BHNd.shape[0], -1, -1, -1)], dim=2)
