"""Statistics of frozen features: what changes them, what does not, and what they say of known clouds of points."""

import io
import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from utuning.backbone import Backbone
from utuning.errors import ConfigError
from utuning.statistics import DatasetStatistics, DepthStatistics, dataset_statistics, depth_statistics, sample_rows

CLOUDS = st.tuples(st.integers(0, 10**6), st.integers(4, 30), st.integers(2, 12), st.integers(1, 4))


def cloud(seed: int, num_images: int, width: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Points around the means of their classes, and something that they all have in common."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(0, num_classes, (num_images,), generator=generator)
    means_CD = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    noise_ND = torch.randn(num_images, width, generator=generator, dtype=torch.float64)
    return means_CD[labels_N] + 0.7 * noise_ND + 0.3, labels_N


def close(first: DepthStatistics, second: DepthStatistics, but: tuple[str, ...] = ()) -> bool:
    pairs = {name: (value, asdict(second)[name]) for name, value in asdict(first).items() if name not in but}
    return all(one == pytest.approx(other, abs=1e-9) for one, other in pairs.values())


def rotation(width: int, seed: int) -> Tensor:
    square = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(square)[0]


@settings(deadline=None, max_examples=60)
@given(CLOUDS, st.floats(1e-6, 1e6))
def test_order_scale_and_rotation_change_nothing(given: tuple[int, int, int, int], scale: float) -> None:
    x_ND, labels_N = cloud(*given)
    found = depth_statistics(x_ND, labels_N)
    order = torch.randperm(len(x_ND), generator=torch.Generator().manual_seed(given[0]))
    assert close(depth_statistics(x_ND[order], labels_N[order]), found)
    assert close(depth_statistics(x_ND * scale, labels_N), found)
    assert close(depth_statistics(x_ND @ rotation(x_ND.shape[1], given[0]), labels_N), found)
    assert close(depth_statistics(x_ND, 7 - 2 * labels_N), found), "the names of classes mean nothing"
    wider = torch.cat([x_ND, torch.zeros(len(x_ND), 3, dtype=torch.float64)], dim=1)
    assert close(depth_statistics(wider, labels_N), found, but=("dimension",))


@settings(deadline=None, max_examples=60)
@given(CLOUDS)
def test_a_shift_changes_the_spread_alone(given: tuple[int, int, int, int]) -> None:
    x_ND, labels_N = cloud(*given)
    found, moved = depth_statistics(x_ND, labels_N), depth_statistics(x_ND + 50.0, labels_N)
    assert close(moved, found, but=("spread",)) and moved.spread < found.spread


@settings(deadline=None, max_examples=60)
@given(CLOUDS)
def test_values_stay_in_their_ranges_and_are_what_a_plain_loop_finds(given: tuple[int, int, int, int]) -> None:
    x_ND, labels_N = cloud(*given)
    found = depth_statistics(x_ND, labels_N)
    assert found.separability <= 1 and all(0 <= value <= 1 + 1e-9 for value in list(asdict(found).values())[1:])
    hits = 0
    for at, (x_D, label) in enumerate(zip(x_ND, labels_N, strict=True)):
        others = torch.arange(len(x_ND)) != at
        classes = labels_N[others].unique()
        means = torch.stack([x_ND[others & (labels_N == each)].mean(dim=0) for each in classes])
        hits += int(classes[(means - x_D).norm(dim=1).argmin()] == label)
    assert found.nearest_mean == pytest.approx(hits / len(x_ND))


def test_known_clouds() -> None:
    labels_N = torch.arange(4).repeat_interleave(50)
    noise_ND = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    far = depth_statistics(100 * torch.eye(8)[labels_N] + noise_ND, labels_N)
    assert far.separability > 0.99 and far.nearest_mean == 1
    none = depth_statistics(noise_ND, labels_N)
    assert abs(none.separability) < 0.05 and none.nearest_mean < 0.4 and none.spread > 0.95
    assert none.dimension > 0.95 and depth_statistics(noise_ND[:, :1] * torch.ones(8), labels_N).dimension < 1e-6
    alike = depth_statistics(torch.ones(200, 8), labels_N)
    assert asdict(alike) == dict.fromkeys(asdict(alike), 0.0)


@pytest.mark.parametrize("x_ND", [torch.ones(1, 3), torch.full((4, 3), torch.nan), torch.ones(4)])
def test_what_is_no_cloud_is_refused(x_ND: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"give \(N, D\) finite values"):
        depth_statistics(x_ND, torch.zeros(len(x_ND), dtype=torch.int64))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(4, 40))
def test_a_sample_has_of_each_class_as_many(labels: list[int], most: int) -> None:
    rows = sample_rows(labels, most)
    assert rows == sorted(set(rows)) == sample_rows(np.array(labels), most)
    taken, there = np.bincount([labels[row] for row in rows], minlength=7), np.bincount(labels, minlength=7)
    kept = np.flatnonzero(taken)
    assert len(kept) == min(np.count_nonzero(there), most // 4)
    assert len(rows) == min(most, there[kept].sum())
    largest = taken.max()
    assert all(taken[label] >= min(there[label], largest - 1) for label in kept)


def table(count: int, num_classes: int) -> pa.Table:
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        encoded = io.BytesIO()
        pixels = rng.integers(0, 256, (40, 36, 3)) // 2 + 100 * (number % num_classes == 0)
        Image.fromarray(pixels.astype(np.uint8)).save(encoded, "PNG")
        files.append({"bytes": encoded.getvalue(), "path": f"{number}.png"})
    return pa.table({"image": files, "label": [number % num_classes for number in range(count)]})


def test_a_data_set_is_seen_at_every_depth_and_always_the_same(backbone: Backbone) -> None:
    found = dataset_statistics(backbone, table(40, 3), 3, most_images=30)
    assert found == dataset_statistics(backbone, table(40, 3), 3, most_images=30)
    assert (found.num_classes, found.num_images, found.num_sampled, found.num_blocks) == (3, 40, 30, 4)
    assert found.images_per_class == pytest.approx(40 / 3)
    assert all(0 < state.separability < 1 and state.spread > 0 for state in (*found.states, found.features))
    assert found.at(0.0) == found.states[0] and found.at(1.0) == found.states[4]
    between = found.at(0.375).spread
    assert between == pytest.approx((found.states[1].spread + found.states[2].spread) / 2)


def test_statistics_go_through_json(backbone: Backbone) -> None:
    found = dataset_statistics(backbone, table(8, 2), 2)
    written = json.loads(json.dumps(found.as_dict()))
    assert DatasetStatistics.from_dict(written) == found
    for broken in ({}, {**written, "schema_version": 99}, {**written, "states": [{"spread": 1.0}]}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            DatasetStatistics.from_dict(broken)
