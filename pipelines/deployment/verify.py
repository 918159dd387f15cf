"""Is this bundle what it says it is? Everything that can be checked again: files, backbone, probe, and scores."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from pipelines.data.datasets import prepare_source
from utuning.backbone import Backbone
from utuning.bundles.bundle import Bundle, bundle_bytes, read_bundle
from utuning.bundles.probe import TOLERANCE, check_probe
from utuning.cohort import Cohort, Score
from utuning.data.info import INFO_FILE
from utuning.data.loader import Loader
from utuning.data.shards import DatasetInfo, open_dataset
from utuning.data.space import human_bytes
from utuning.data.stored import opened, shared_split
from utuning.errors import UTuningError
from utuning.member import Member
from utuning.predict import best_device

SPLITS = ("val", "test")
BATCH_SIZE = 64
CLOSE = 0.005
"""Share of the images whose answer another device or precision may turn: rounding, where two classes are close."""


class Wrong(Exception):
    """A finding against the bundle."""


class Verification:
    """The checks of one bundle, in an order in which each rests on those before it.

    With `stated`, scores are compared with these metrics instead of the manifest's, and no split is read of which they
    say nothing.
    """

    def __init__(
        self,
        path: Path,
        weights: str | None = None,
        data: Path | None = None,
        stated: Mapping[str, float] | None = None,
    ) -> None:
        self.path, self.weights, self.data, self.stated = path, weights, data, stated

    def checks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Name and work of each check; the work gives what was found, or raises."""
        yield "files", self._files
        yield "manifest", self._manifest
        yield "tensors", self._tensors
        yield "backbone", self._backbone
        yield "fit", self._fit
        yield "probe", self._probe
        if self.data is not None:
            with tempfile.TemporaryDirectory() as folder:
                yield "data", lambda: self._data(Path(folder))
                for split in SPLITS if self.stated is None else [s for s in SPLITS if _key(s) in self.stated]:
                    yield split, lambda split=split: self._score(split, Path(folder))  # type: ignore[misc]

    def _files(self) -> str:
        self.bundle: Bundle = read_bundle(self.path)
        files = len(self.bundle.manifest.files) + 1
        return f"{files} files, {human_bytes(bundle_bytes(self.path))}; nothing else, all digests as stated"

    def _manifest(self) -> str:
        manifest = self.bundle.manifest
        placed, classes = " and ".join(manifest.placement), len(manifest.class_names)
        return f"schema {manifest.schema_version}, trial {manifest.trial_id}: {placed}; {classes} classes"

    def _tensors(self) -> str:
        tensors = self.bundle.tensors.values()
        numbers = sum(value.numel() for value in tensors)
        return f"{len(tensors)} tensors, {numbers:,} numbers stored as {self.bundle.manifest.storage}, all finite"

    def _backbone(self) -> str:
        self.backbone: Backbone = self.bundle.load_backbone(self.weights).to(best_device())
        return f"{self.backbone.config.name}, fingerprint {self.backbone.fingerprint[:16]}… as stated"

    def _fit(self) -> str:
        self.member: Member = self.bundle.member(self.backbone, probe=False)
        return "every tensor is there, with the shape that the backbone asks for, and none more"

    def _probe(self) -> str:
        found = check_probe(self.bundle.probe, self.backbone, self.member, str(self.path))
        images = len(self.bundle.probe.images)
        return f"{images} images, logits differ by {found:.1e} of the largest ({TOLERANCE:g} allowed)"

    def _data(self, folder: Path) -> str:
        assert self.data is not None
        self.dataset = _dataset(self.data, folder / "data", self.bundle.manifest.dataset)
        stated, found = self.bundle.manifest.data_fingerprint, self.dataset.fingerprint
        if found != stated:
            raise Wrong(
                f"{self.data} has fingerprint {found[:16]}…, the bundle was trained on {self.bundle.manifest.dataset} "
                f"with {stated[:16]}…; give the prepared set of its search, which lies in HOME/data"
            )
        if self.dataset.class_names != self.bundle.manifest.class_names:
            raise Wrong("its classes are the bundle's in another order; prepare the data set again")
        return f"{self.dataset.name}, fingerprint {found[:16]}… as stated"

    def _score(self, split: str, folder: Path) -> str:
        if split not in self.dataset.counts:
            return f"the data set has no {split}"
        table = opened(shared_split(self.dataset, split), folder / "rows")
        loader = Loader(table, self.backbone.preprocessing, global_batch_size=BATCH_SIZE, train=False)
        cohort = Cohort(self.backbone, [self.member], precision=self.bundle.manifest.trial.precision)
        stated = self.bundle.manifest.metrics if self.stated is None else self.stated
        return compared(stated.get(_key(split)), cohort.evaluate(loader.epoch(0))[0])


def compared(stated: float | None, score: Score) -> str:
    """Both accuracies and whether they are equal, in words.

    Raises:
        Wrong: they differ by more than another device's rounding explains.
    """
    if stated is None:
        return f"accuracy {score.accuracy:.4f} of {score.count} images now; the bundle states none"
    both = f"accuracy stated {stated:.4f}, now {score.accuracy:.4f}"
    images = round(abs(stated - score.accuracy) * score.count)
    if images == 0:
        return f"{both}: equal, on {score.count} images"
    if images > CLOSE * score.count:
        raise Wrong(
            f"{both}: not equal, {images} of {score.count} images; install the versions that its manifest names"
        )
    return f"{both}: {images} of {score.count} images differ, as another device or precision rounds"


def examine(
    path: Path, weights: str | None, data: Path | None, console: Console, stated: Mapping[str, float] | None = None
) -> bool:
    """Print one line for each check; gives whether all is well. What rests on a failed check is not tried."""
    for name, check in Verification(path, weights, data, stated).checks():
        try:
            console.print(f"[green]ok[/green]    {name:<8} {check()}", highlight=False, soft_wrap=True)
        except (Wrong, UTuningError) as error:
            console.print(f"[red]wrong[/red] {name:<8}", highlight=False, soft_wrap=True, end=" ")
            console.print(str(error), highlight=False, markup=False, soft_wrap=True)
            return False
    return True


def _key(split: str) -> str:
    return f"{split}/accuracy"


def _dataset(path: Path, to: Path, name: str) -> DatasetInfo:
    """A prepared set as it is; a folder of images is prepared first, as a search does without further settings."""
    if (path / INFO_FILE).is_file():
        return open_dataset(path)
    return prepare_source("folder", path, str(to), name=name)
