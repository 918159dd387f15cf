"""Parameters and metrics of runs, as the tracking store takes them."""

import math
import time
from collections.abc import Mapping
from typing import Any


class RunLog:
    """Writes what runs measure. What MLflow raises is left to the caller's `in_words`."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._epochs: dict[str, set[int]] = {}

    def begin(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Write the parameters of a new run."""
        from mlflow.entities import Param

        self._epochs[run_id] = set()
        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write one epoch's metrics at once. An epoch that the run has already is left as it is."""
        known = self._known_epochs(run_id)
        if epoch in known:
            return
        self._write(run_id, {**metrics, "epoch": epoch}, step=epoch)
        known.add(epoch)

    def beside_last_epoch(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Write what holds for the whole run; a value that the run has already is not written again."""
        known = self._client.get_run(run_id).data.metrics
        new = {key: value for key, value in metrics.items() if known.get(key) != value}
        self._write(run_id, new, step=max(self._known_epochs(run_id), default=0))

    def _known_epochs(self, run_id: str) -> set[int]:
        if run_id not in self._epochs:
            self._epochs[run_id] = {metric.step for metric in self._client.get_metric_history(run_id, "epoch")}
        return self._epochs[run_id]

    def _write(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Leave out what isn't finite, and tag the run with `diverged` then."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        if len(finite) < len(metrics):
            self._client.set_tag(run_id, "diverged", "true")
        if finite:
            self._client.log_batch(run_id, metrics=[Metric(key, value, now, step) for key, value in finite.items()])
