"""The test split, read once: after selection is over, for the search's best configuration and the baselines."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import ray

from cluster.profile import Layout
from pipelines.shared import Shared
from pipelines.tracking import RunRecord, Tracker
from utuning.bundle import Bundle, read_bundle
from utuning.cohort import Cohort, Score
from utuning.data.loader import Loader
from utuning.data.shards import DatasetInfo, read_split

BATCH_SIZE = 64


def measure_test(
    tracker: Tracker, runs: Sequence[RunRecord], shared: Shared, dataset: DatasetInfo, layout: Layout
) -> None:
    """Score the bundles of these runs on test, and log it."""
    with tempfile.TemporaryDirectory() as folder:
        bundles = [read_bundle(tracker.download_bundle(run.run_id, Path(folder) / run.run_id)) for run in runs]
        task = ray.remote(num_cpus=layout.cpus_per_worker, num_gpus=layout.gpus_per_worker)(score_bundles)
        scores: list[Score] = ray.get(task.remote(bundles, shared, ray.put(read_split(dataset, "test"))))
    for run, score in zip(runs, scores, strict=True):
        metrics = {"test/accuracy": score.accuracy, "test/loss": score.loss, "test/count": score.count}
        tracker.log_test(run.run_id, metrics)


def score_bundles(bundles: Sequence[Bundle], shared: Shared, table: pa.Table) -> list[Score]:
    """Score bundles on a table of images, all together as one cohort."""
    import torch

    from pipelines.job import load_backbone
    from utuning.predict import best_device

    torch.set_num_threads(shared.cpus_per_worker)
    backbone = load_backbone(shared).to(best_device())
    members = [bundle.member(backbone) for bundle in bundles]
    loader = Loader(table, backbone.preprocessing, global_batch_size=BATCH_SIZE, train=False)
    return Cohort(backbone, members).evaluate(loader.epoch(0))
