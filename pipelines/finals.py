"""The test split, read once: after selection is over, for the search's best configuration and the baselines."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import ray

from pipelines.plan import Prepared
from pipelines.shared import Shared
from pipelines.tracking import RunRecord, Tracker
from utuning.backbone import Backbone
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.cohort import Cohort, Score
from utuning.data.loader import Loader
from utuning.data.rows import Rows
from utuning.data.stored import SplitRef, opened, shared_split

BATCH_SIZE = 64


def measure_test(tracker: Tracker, runs: Sequence[RunRecord], ready: Prepared, shared: Shared) -> None:
    """Score the bundles of these runs on test, and log it: on a cluster in a task, else here, with what is loaded."""
    split = shared_split(ready.dataset, "test")
    with tempfile.TemporaryDirectory() as folder:
        bundles = [read_bundle(tracker.download_bundle(run.run_id, Path(folder) / run.run_id)) for run in runs]
        if shared.group.local:
            scores = score_bundles(bundles, ready.backbone, opened(split, _rows(shared)))
        else:
            layout = shared.group.layout
            task = ray.remote(num_cpus=layout.cpus_per_worker, num_gpus=layout.gpus_per_worker)(_score_on_worker)
            scores = ray.get(task.remote(bundles, shared, ray.put(split)))
    for run, score in zip(runs, scores, strict=True):
        metrics = {"test/accuracy": score.accuracy, "test/loss": score.loss, "test/count": score.count}
        tracker.log_test(run.run_id, metrics)


def score_bundles(bundles: Sequence[Bundle], backbone: Backbone, table: pa.Table | Rows) -> list[Score]:
    """Score bundles on the images of a split, all together as one cohort."""
    from utuning.predict import best_device

    backbone.to(best_device())
    members = [bundle.member(backbone) for bundle in bundles]
    loader = Loader(table, backbone.preprocessing, global_batch_size=BATCH_SIZE, train=False)
    return Cohort(backbone, members).evaluate(loader.epoch(0))


def _score_on_worker(bundles: Sequence[Bundle], shared: Shared, split: pa.Table | SplitRef) -> list[Score]:
    import torch

    from pipelines.job import load_backbone

    torch.set_num_threads(shared.group.layout.cpus_per_worker)
    return score_bundles(bundles, load_backbone(shared), opened(split, _rows(shared)))


def _rows(shared: Shared) -> Path:
    return Path(shared.cache) / "rows"
