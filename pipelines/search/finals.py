"""The test split, read once: after selection is over, for the search's best configuration and the baselines."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch

from pipelines.cohorts.shared import Shared
from pipelines.planning.plan import Prepared
from pipelines.results.answers import FOLDER, Answers
from pipelines.tracking.artifacts import BUNDLE
from pipelines.tracking.records import RunRecord
from pipelines.tracking.tracker import Tracker
from utuning.backbone import Backbone
from utuning.batch import Batch
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.cohort import Cohort, Score
from utuning.data.loader import Loader
from utuning.data.rows import Rows
from utuning.data.stored import SplitRef, opened, shared_split

BATCH_SIZE = 64

Scored = tuple[Score, np.ndarray]
"""A score, and whether each of the N images is right, (N,)."""


def measure_test(tracker: Tracker, runs: Sequence[RunRecord], ready: Prepared, shared: Shared) -> None:
    """Score the bundles of these runs on test, and log it: on a cluster in a task, else here, with what is loaded."""
    split = shared_split(ready.dataset, "test")
    with tempfile.TemporaryDirectory() as folder:
        bundles = [
            read_bundle(tracker.artifacts.download(run.run_id, BUNDLE, Path(folder) / run.run_id)) for run in runs
        ]
        if shared.group.local:
            found = score_bundles(bundles, ready.backbone, opened(split, shared.rows_cache))
        else:
            layout = shared.group.layout
            task = ray.remote(num_cpus=layout.cpus_per_worker, num_gpus=layout.gpus_per_worker)(_score_on_worker)
            found = ray.get(task.remote(bundles, shared, ray.put(split)))
    for run, (score, right_N) in zip(runs, found, strict=True):
        _keep_answers(tracker, run.run_id, Answers(data_fingerprint=ready.facts.data_fingerprint, right=right_N))
        metrics = {"test/accuracy": score.accuracy, "test/loss": score.loss, "test/count": score.count}
        tracker.log_test(run.run_id, metrics)  # last: a run with these is measured, and never again


def _keep_answers(tracker: Tracker, run_id: str, answers: Answers) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tracker.artifacts.log(run_id, answers.write(Path(folder)), FOLDER)


def score_bundles(bundles: Sequence[Bundle], backbone: Backbone, table: pa.Table | Rows) -> list[Scored]:
    """Score bundles on the N images of a split, all together as one cohort."""
    from utuning.predict import best_device

    backbone.to(best_device())
    members = [bundle.member(backbone) for bundle in bundles]
    loader = Loader(table, backbone.preprocessing, global_batch_size=BATCH_SIZE, train=False)
    right_KN = np.zeros((len(members), loader.num_examples), dtype=bool)

    def see(place: int, logits_BC: torch.Tensor, batch: Batch) -> None:
        real = batch.index >= 0
        right_B = logits_BC.argmax(dim=-1) == batch.labels
        right_KN[place, batch.index[real].cpu().numpy()] = right_B[real].cpu().numpy()

    return list(zip(Cohort(backbone, members).evaluate(loader.epoch(0), see), right_KN, strict=True))


def _score_on_worker(bundles: Sequence[Bundle], shared: Shared, split: pa.Table | SplitRef) -> list[Scored]:
    from pipelines.cohorts.worker import load_backbone

    torch.set_num_threads(shared.group.layout.cpus_per_worker)
    return score_bundles(bundles, load_backbone(shared), opened(split, shared.rows_cache))
