"""Cheap statistics of a data set, seen through a frozen backbone: what tells data sets apart before anything trains.

At each depth the stream of an image is averaged over its tokens. The numbers are free of scale: shares, or logarithms'
ratios, that do not change when all features are multiplied, rotated together, or given in another order.

Shape legend: N images, D width of a stream, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import log
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from utuning.backbone import Backbone
from utuning.data.loader import Loader
from utuning.data.rows import PickedRows, Rows, as_rows
from utuning.errors import ConfigError
from utuning.shared_rows import SharedRows

MOST_IMAGES = 512
IMAGES_A_CLASS = 4
"""What a sample has of each class, where there are so many; with very many classes it leaves some out instead."""
BATCH_SIZE = 32
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DepthStatistics:
    """What the features of one depth are like.

    Attributes:
        separability: share of the variance that lies between classes, less what chance gives (epsilon squared,
            1 - (SS_within / (N - C)) / (SS_total / (N - 1))); at most 1, about 0 where classes mean nothing.
        nearest_mean: share of images that are nearest to the mean of their own class, itself left out.
        dimension: effective number of dimensions k = (sum of the covariance's eigenvalues)^2 / (sum of their squares),
            as log k / log min(D, N - 1): 0 is a line, 1 is a ball.
        spread: share of the features' energy that differs from image to image, tr(cov) / E|x|^2.
    """

    separability: float
    nearest_mean: float
    dimension: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """Statistics of a sample of train: one row for the entry of each block and of the final norm, one for the features.

    `num_classes` and `num_images` are the whole split's; `num_sampled` is what was looked at.
    """

    num_classes: int
    num_images: int
    num_sampled: int
    states: tuple[DepthStatistics, ...]
    features: DepthStatistics

    @property
    def num_blocks(self) -> int:
        """Blocks of the backbone that was looked through."""
        return len(self.states) - 1

    @property
    def images_per_class(self) -> float:
        """Mean number of train images of a class."""
        return self.num_images / self.num_classes

    def at(self, share: float) -> DepthStatistics:
        """Statistics at a relative depth, from 0 (what enters the first block) to 1, interpolated."""
        low = min(int(share * self.num_blocks), self.num_blocks)
        high, part = min(low + 1, self.num_blocks), share * self.num_blocks - low
        first, second = asdict(self.states[low]), asdict(self.states[high])
        return DepthStatistics(**{name: (1 - part) * first[name] + part * second[name] for name in first})

    def as_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DatasetStatistics":
        """Rebuild from plain values; raises KeyError, TypeError or ValueError where they are none of these."""
        known = {field.name: values[field.name] for field in fields(cls)}
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {values['schema_version']}")
        states = tuple(DepthStatistics(**state) for state in known["states"])
        return cls(**{**known, "states": states, "features": DepthStatistics(**known["features"])})


@torch.no_grad()
def depth_statistics(x_ND: Tensor, labels_N: Tensor) -> DepthStatistics:
    """Statistics of features at one depth. Features that are all alike separate nothing and have no dimension.

    Raises:
        ConfigError: fewer than two images, shapes that do not fit, or values that are not finite.
    """
    if x_ND.ndim != 2 or labels_N.shape != x_ND.shape[:1] or len(x_ND) < 2 or not x_ND.isfinite().all():
        raise ConfigError(
            f"features {tuple(x_ND.shape)} of labels {tuple(labels_N.shape)}: give (N, D) finite values and (N,) "
            "labels of two images or more"
        )
    x_ND = x_ND.double()
    x_ND = x_ND / x_ND.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    centred_ND = x_ND - x_ND.mean(dim=0)
    total, energy = float(centred_ND.square().sum()), float(x_ND.square().sum())
    # Rounding alone leaves this much of features that are all alike.
    if total <= 1e-12 * energy or energy == 0:
        return DepthStatistics(separability=0.0, nearest_mean=0.0, dimension=0.0, spread=0.0)
    classes_N = torch.from_numpy(np.unique(labels_N.numpy(), return_inverse=True)[1])
    own_NC = one_hot(classes_N).double()
    return DepthStatistics(
        separability=_separability(centred_ND, own_NC, total),
        nearest_mean=_nearest_mean(centred_ND, own_NC),
        dimension=_dimension(centred_ND, total),
        spread=total / energy,
    )


def dataset_statistics(
    backbone: Backbone, given: pa.Table | Rows, num_classes: int, *, most_images: int = MOST_IMAGES
) -> DatasetStatistics:
    """Statistics of a train split, from one pass of the frozen backbone over a sample of at most `most_images`.

    The sample and the crops are always the same ones: centre crops of rows that follow from the labels alone. Images
    are computed on the backbone's device.

    Raises:
        ConfigError: a split of fewer than two images.
        DataError: an image that cannot be read.
    """
    split = as_rows(given)
    sample = PickedRows(split, sample_rows(split.labels, most_images))
    loader = Loader(sample, backbone.preprocessing, global_batch_size=BATCH_SIZE, train=False, cache_bytes=0)
    depths = range(len(backbone.trunk.blocks) + 2)
    found: dict[int, list[Tensor]] = {depth: [] for depth in depths}
    labels: list[Tensor] = []
    for batch in loader.epoch(0):
        real = batch.weight > 0
        labels.append(batch.labels[real])
        for depth, pooled_BD in _pooled_states(backbone, batch.pixels[real]).items():
            found[depth].append(pooled_BD)
    *states, features = (depth_statistics(torch.cat(found[depth]), torch.cat(labels)) for depth in depths)
    return DatasetStatistics(
        num_classes=num_classes,
        num_images=len(split.labels),
        num_sampled=len(sample.labels),
        states=tuple(states),
        features=features,
    )


def sample_rows(labels: Sequence[int] | np.ndarray, most: int) -> list[int]:
    """At most so many rows, sorted: each class as often as the others, so far as there are images.

    Where classes are too many for `IMAGES_A_CLASS` of each, some classes are left out.
    """
    labels = np.asarray(labels)
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = list(dict.fromkeys(labels[order].tolist()))[: max(1, most // IMAGES_A_CLASS)]
    seen = dict.fromkeys(chosen, 0)
    turns: list[tuple[int, int]] = []
    for row in order.tolist():
        if (label := int(labels[row])) in seen:
            turns.append((seen[label], row))
            seen[label] += 1
    return sorted(row for _, row in sorted(turns, key=lambda turn: turn[0])[:most])


@torch.no_grad()
def _pooled_states(backbone: Backbone, images: Tensor) -> dict[int, Tensor]:
    """Every state of a batch averaged over its tokens, (B, D), and the features last; on the CPU."""
    trunk = backbone.trunk
    num_blocks = len(trunk.blocks)
    device = next(trunk.model.parameters()).device
    shared = SharedRows(trunk, backbone.normalise(images.to(device)), wanted=range(num_blocks + 2))
    shared.features()
    sites = [*(block.whole for block in trunk.blocks), trunk.norm]
    pooled = {depth: site.layout.tokens(shared.found[depth]).mean(dim=1) for depth, site in enumerate(sites)}
    pooled[num_blocks + 1] = shared.found[num_blocks + 1]
    return {depth: state.float().cpu() for depth, state in pooled.items()}


def _separability(centred_ND: Tensor, own_NC: Tensor, total: float) -> float:
    """1 - (SS_within / (N - C)) / (SS_total / (N - 1)); 0 where each image is a class of its own."""
    num_images, num_classes = own_NC.shape
    if num_images == num_classes:
        return 0.0
    sums_CD, count_C = own_NC.T @ centred_ND, own_NC.sum(dim=0)
    between = float((sums_CD.square().sum(dim=1) / count_C).sum())
    return 1 - ((total - between) / (num_images - num_classes)) / (total / (num_images - 1))


def _nearest_mean(centred_ND: Tensor, own_NC: Tensor) -> float:
    """An image's own mean is that of the others of its class; who is alone in a class counts as missed."""
    count_C = own_NC.sum(dim=0)
    means_CD = (own_NC.T @ centred_ND) / count_C[:, None]
    squared_NC = torch.cdist(centred_ND, means_CD, compute_mode="donot_use_mm_for_euclid_dist").square()
    own_count_N = own_NC @ count_C
    # Without x itself the mean moves away from x: |x - mean'| = |x - mean| n / (n - 1).
    moved_N = (own_count_N / (own_count_N - 1).clamp(min=1)).square()
    squared_NC = torch.where(own_NC > 0, squared_NC * moved_N[:, None], squared_NC)
    hit_N = own_NC[torch.arange(len(own_NC)), squared_NC.argmin(dim=1)] > 0
    return float((hit_N & (own_count_N > 1)).double().mean())


def _dimension(centred_ND: Tensor, total: float) -> float:
    """Log of the participation ratio of the covariance's eigenvalues, as a share of the log of their number."""
    most = min(centred_ND.shape[1], len(centred_ND) - 1)
    if most < 2:
        return 0.0
    narrow = centred_ND if centred_ND.shape[1] < len(centred_ND) else centred_ND.T
    squares = float((narrow.T @ narrow).square().sum())
    return log(max(1.0, total**2 / squares)) / log(most)
