"""Answers requests, whoever brings them: FastAPI, Ray Serve, or a test. It knows no HTTP."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import Tensor

from pipelines.serving.aliases import Watcher
from pipelines.serving.batching import Batcher
from pipelines.serving.failures import RequestError
from pipelines.serving.images import image_input
from pipelines.serving.metrics import Metrics
from pipelines.serving.opening import Opened
from pipelines.serving.requests import ALL, PredictRequest, bad_request
from pipelines.serving.settings import Settings
from pipelines.serving.shelf import Scored, Tuner
from pipelines.serving.sources import FolderSource, in_models
from utuning.errors import UTuningError

log = logging.getLogger("utuning.serving")
NUM_DECODERS = 2
"""Images that are decoded at once: each takes memory for all its pixels."""
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One image (3, S, S) for some tuners."""

    image: Tensor
    slots: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """A row for each tuner."""
        return len(self.slots)


class Handler:
    """A server's tuners, queue and numbers. Between `start` and `close` it answers."""

    def __init__(self, opened: Opened, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings, self.metrics = settings, metrics or Metrics()
        self.shelf = opened.shelf
        self._canaries = {canary.tuner: canary for canary in opened.canaries}
        self._watcher = Watcher(opened.shelf, opened.watched, self.metrics, settings.poll_s)
        self._batcher: Batcher[Ask, list[Scored | Exception]] = Batcher(
            self._run,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            ran=self.metrics.ran,
        )
        self._threads = ThreadPoolExecutor(NUM_DECODERS, thread_name_prefix="decoding")
        self.metrics.gauge("queue_rows", "Rows that wait", lambda: self._batcher.num_waiting)
        self.metrics.gauge("tuners", "Tuners that are held", lambda: len(self.shelf.tuners))
        self.metrics.gauge("tuner_bytes", "Bytes of held tuners", lambda: sum(t.num_bytes for t in self._held()))

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._batcher.start()
        self._watcher.start()

    async def close(self) -> None:
        """Answer what waits, then end."""
        await self._watcher.close()
        await self._batcher.close()
        self._threads.shutdown()

    @property
    def ready(self) -> bool:
        """Whether it answers requests, and has a tuner to answer with."""
        return self._batcher.running and bool(self.shelf.tuners)

    def tuners(self) -> list[dict[str, Any]]:
        """What is held; a canary says which share of whose requests it takes."""
        of_slot = {canary.slot: canary for canary in self._canaries.values()}
        return [
            {**tuner.as_json(), "canary": None if (one := of_slot.get(tuner.slot)) is None else one.share}
            for tuner in sorted(self._held(), key=lambda tuner: tuner.slot)
        ]

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run what would keep the event loop from other requests."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def predict(self, request: PredictRequest) -> dict[str, Any]:
        """Answer with labels and scores, for each image and each tuner; the shared backbone runs once for an image.

        Raises:
            RequestError: an unknown tuner, too many or damaged images, or a full queue.
        """
        request_id = request.id or uuid4().hex
        slots = [self._slot(name, request_id) for name in self._names(request.tuners)]
        if len(request.images) > self.settings.max_images:
            raise RequestError(
                413,
                "too_many_images",
                f"the request has {len(request.images):,} images; allowed: {self.settings.max_images}; send several "
                "requests",
            )
        self._batcher.check_room(len(request.images) * len(slots))
        images = await asyncio.gather(*(self.in_thread(self._input, data, name) for name, data in request.images))
        most = self.settings.max_batch
        shares = [tuple(slots[at : at + most]) for at in range(0, len(slots), most)]
        futures = self._batcher.submit([Ask(image, share) for image in images for share in shares])
        answers = [row for rows in await asyncio.gather(*futures) for row in rows]
        results = []
        for place, (name, _) in enumerate(request.images):
            rows = answers[place * len(slots) : (place + 1) * len(slots)]
            results.append({"image": name, "predictions": [self._prediction(row, request.top) for row in rows]})
        self.metrics.images.inc(len(images))
        return {"id": request_id, "results": results}

    async def load(self, name: str) -> dict[str, Any]:
        """Load, or load again, a bundle of the model folder.

        Raises:
            RequestError: loading is off, there is no such bundle, or it cannot be held.
        """
        models = self._check_may_load()
        source = FolderSource(in_models(models, name))
        try:
            evicted = await self.in_thread(self._load, name, source)
        except UTuningError as error:
            raise RequestError(422, "bad_bundle", str(error)) from error
        self._watcher.forget(name)
        log.info("%s was loaded; %s had to go", name, ", ".join(evicted) or "none")
        return {**self.shelf.find(name).as_json(), "evicted": list(evicted)}

    async def unload(self, name: str) -> dict[str, Any]:
        """Forget a tuner.

        Raises:
            RequestError: unloading is off, or there is no such tuner.
        """
        self._check_may_load()
        await self.in_thread(self.shelf.drop, name)
        self._watcher.forget(name)
        log.info("%s was unloaded", name)
        return {"unloaded": name}

    def _held(self) -> Sequence[Tuner]:
        return tuple(self.shelf.tuners.values())

    def _names(self, given: tuple[str, ...] | None) -> list[str]:
        """The tuners that are meant, each once. Those that are canaries have to be named."""
        canaries = {canary.slot for canary in self._canaries.values()}
        everybody = sorted(name for name in self.shelf.tuners if name not in canaries)
        if given == (ALL,) or (given is None and len(everybody) == 1):
            if not everybody:
                raise RequestError(503, "no_tuner", "no tuner is loaded; load one, or ask again later", 5)
            return everybody
        if given is None:
            raise bad_request(
                f"the request names no tuner; give one or more as 'tuners', or {ALL!r}; "
                f"there are: {', '.join(everybody[:20])}"
            )
        return list(dict.fromkeys(self.shelf.find(name).slot for name in given))

    def _slot(self, name: str, request_id: str) -> str:
        canary = self._canaries.get(name)
        takes = canary is not None and canary.slot in self.shelf.tuners and canary.takes(request_id)
        return canary.slot if canary is not None and takes else name

    def _input(self, data: bytes, name: str) -> Tensor:
        return image_input(data, name, self.shelf.backbone.preprocessing, self.settings.max_pixels)

    def _run(self, asks: Sequence[Ask]) -> list[list[Scored | Exception]]:
        """A batch, in the inference thread."""
        # An image of several asks is one image here too.
        images = list({id(ask.image): ask.image for ask in asks}.values())
        place = {id(image): index for index, image in enumerate(images)}
        rows = [(slot, place[id(ask.image)]) for ask in asks for slot in ask.slots]
        scored = iter(self.shelf.score(torch.stack(images), [slot for slot, _ in rows], [image for _, image in rows]))
        return [[next(scored) for _ in ask.slots] for ask in asks]

    def _prediction(self, row: Scored | Exception, top: int) -> dict[str, Any]:
        if isinstance(row, Exception):
            raise row
        tuner, names = row.tuner, row.tuner.manifest.class_names
        self.metrics.predictions.labels(tuner.slot, tuner.version, tuner.alias or "").inc()
        values, places = row.probabilities.topk(min(top, len(names)))
        classes = zip(places.tolist(), values.tolist(), strict=True)
        return {
            "tuner": tuner.slot.partition("@")[0],
            "version": tuner.version,
            "alias": tuner.alias,
            "classes": [{"label": names[place], "score": score} for place, score in classes],
        }

    def _load(self, name: str, source: FolderSource) -> tuple[str, ...]:
        found = source.find()
        return self.shelf.put(name, source.fetch(found), found.version)

    def _check_may_load(self) -> Path:
        if not self.settings.allow_load or self.settings.models is None:
            raise RequestError(
                403,
                "loading_off",
                "loading and unloading are off; start the server with --allow-load --models FOLDER to allow them",
            )
        return self.settings.models
