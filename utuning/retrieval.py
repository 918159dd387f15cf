"""Retrieval: embeddings of images, and how often an image's nearest others are of its class.

Shape legend: N images, E width of an embedding.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.errors import ConfigError
from utuning.member import Member
from utuning.streams import run_streams

QUERIES_AT_ONCE = 1024


def recall_at_k(embeddings_NE: Tensor, labels_N: Tensor, k: int = 1) -> float:
    """Share of images that have one of their own class among the k nearest others, by cosine, in [0, 1].

    Each image queries all the others, itself left out. An image whose class no other has counts as missed.

    Raises:
        ConfigError: shapes that do not fit, values that are not finite, or k outside [1, N - 1].
    """
    _check(embeddings_NE, labels_N, k)
    unit_NE = normalize(embeddings_NE.float(), dim=-1)
    hits = 0
    for first in range(0, len(labels_N), QUERIES_AT_ONCE):
        rows = torch.arange(first, min(first + QUERIES_AT_ONCE, len(labels_N)), device=unit_NE.device)
        similarity_QN = unit_NE[rows] @ unit_NE.T
        similarity_QN[rows - first, rows] = -torch.inf
        nearest_Qk = similarity_QN.topk(k, dim=1).indices
        hits += int((labels_N[nearest_Qk] == labels_N[rows, None]).any(dim=1).sum())
    return hits / len(labels_N)


@torch.no_grad()
def embeddings(backbone: Backbone, member: Member, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Embeddings (N, E) and labels (N,) of every image of a loader's batches, on the CPU; padding is left out.

    An embedding is what the member's head calls one (`embed`), else the features that its head reads. The member is
    left in evaluation mode.

    Raises:
        ConfigError: no image.
    """
    member.parts.eval()
    member.end_drop_path()
    embed = getattr(member.parts["head"], "embed", None) or (lambda features_BF: features_BF)
    device = next(backbone.trunk.model.parameters()).device
    found: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        (features_BF,) = run_streams(backbone.trunk, [member], backbone.normalise(batch.pixels.to(device)))
        real = batch.weight.cpu() > 0
        found.append((embed(features_BF).cpu()[real], batch.labels.cpu()[real]))
    if not any(len(labels) for _, labels in found):
        raise ConfigError("no image to embed: the batches hold none; give those of a split with images")
    embedded, labels = zip(*found, strict=True)
    return torch.cat(embedded), torch.cat(labels)


def _check(embeddings_NE: Tensor, labels_N: Tensor, k: int) -> None:
    if embeddings_NE.ndim != 2 or labels_N.shape != embeddings_NE.shape[:1]:
        raise ConfigError(
            f"embeddings {tuple(embeddings_NE.shape)} and labels {tuple(labels_N.shape)} do not fit; "
            "give (N, E) and (N,)"
        )
    if not 1 <= k < len(labels_N):
        raise ConfigError(f"k = {k} with {len(labels_N)} images: give 1 <= k < the number of images")
    if not embeddings_NE.isfinite().all():
        raise ConfigError("embeddings hold NaN or infinity; look at the member's training loss")
