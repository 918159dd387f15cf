"""A head that learns an embedding for retrieval: a stand-in for metric learning with conditional prompts.

It is not that method, whose formula is not used here; it stands in its place so that embeddings can be compared. The
loss is a per-image variant of Proxy Anchor's (arXiv 2003.13911), not Proxy Anchor's own.

Shape legend: B images, F features, E width of the embedding, C classes.
"""

from typing import Annotated

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear, normalize, softplus

from utuning.linear import xavier_linear
from utuning.settings import AtLeast


class ProxyHead(nn.Module):
    """e = norm(W f + b); one proxy p_c a class, kept at length 1; scores_c = alpha * cos(e, p_c).

    Loss of one image with class y, margin d:
        softplus(-alpha (cos_y - d)) + (1/C) sum over c != y of softplus(alpha (cos_c + d)).
    This is Proxy Anchor's loss of a batch that holds this image alone. Its own loss of a larger batch puts all images
    of a proxy under one log-sum-exp: an image's share would then depend on how a batch is split over workers, which
    this variant's does not. Label smoothing does not apply. Parameters: FE + E + CE. The largest score is the nearest
    proxy's, so the head classifies too; the loss that evaluation reports is the cross-entropy of these scores.

    Args:
        num_features: F.
        num_classes: C.
        embedding_dim: E.
        alpha: the source's 32.
        margin: d, the source's 0.1.
        generator: source of the initial values: Xavier-uniform W, zero b, normal proxies (their length has no effect).
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        embedding_dim: Annotated[int, AtLeast(1)] = 128,
        alpha: Annotated[float, AtLeast(1)] = 32.0,
        margin: Annotated[float, AtLeast(0)] = 0.1,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.alpha, self.margin = alpha, margin
        self.embedding = xavier_linear(num_features, embedding_dim, generator)
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out", generator=generator)

    def embed(self, features_BF: Tensor) -> Tensor:
        """Embeddings of length 1, (B, E), fp32."""
        return normalize(self.embedding(features_BF).float(), dim=-1)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Class scores alpha * cos, (B, C)."""
        embeddings_BE = self.embed(features_BF)
        # alpha would multiply bf16's error into the loss.
        with torch.autocast(features_BF.device.type, enabled=False):
            return self.alpha * linear(embeddings_BE, normalize(self.proxies, dim=-1))

    def loss(self, scores_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Each image's loss, (B,)."""
        shift = self.alpha * self.margin
        labels_B1 = labels_B[:, None]
        positive_B = softplus(shift - scores_BC.gather(1, labels_B1)).squeeze(1)
        negatives_BC = softplus(scores_BC + shift).scatter(1, labels_B1, 0.0)
        return positive_B + negatives_BC.mean(dim=1)
