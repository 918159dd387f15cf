"""Predictions from a bundle: no Ray, no tracking server."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from utuning.backbone import Backbone
from utuning.bundles.bundle import Bundle, read_bundle
from utuning.cohort import Cohort
from utuning.data.transforms import decode_resize, eval_crop
from utuning.errors import DataError

MAX_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image, best first, with probabilities in [0, 1]."""

    image: str
    classes: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0][0]


class Predictor:
    """One bundle on its backbone, ready for images."""

    def __init__(self, bundle: Bundle, backbone: Backbone) -> None:
        self.bundle = bundle
        self._cohort = Cohort(backbone, [bundle.member(backbone)])
        self._preprocessing = bundle.manifest.preprocessing

    @classmethod
    def open(cls, path: Path, *, weights: str | None = None) -> "Predictor":
        """Read a bundle and load the backbone it names; `weights` says where its weights lie here.

        Raises:
            BundleError: the bundle is damaged, or the backbone has another fingerprint.
            BackboneError: the backbone cannot be loaded.
        """
        bundle = read_bundle(path)
        return cls(bundle, bundle.load_backbone(weights).to(best_device()))

    def predict(self, images: Iterable[Path], *, top: int = 5) -> Iterator[Prediction]:
        """Yield a prediction for each image file.

        Raises:
            DataError: a file that is missing or cannot be decoded.
        """
        return self.classify(((str(path), _content(path)) for path in images), top=top)

    def classify(self, images: Iterable[tuple[str, bytes]], *, top: int = 5) -> Iterator[Prediction]:
        """Yield a prediction for each encoded image and its name; `top` is how many classes to name, at least 1.

        Raises:
            DataError: an image that cannot be decoded.
        """
        rest = iter(images)
        while some := list(islice(rest, MAX_BATCH)):
            batch = torch.stack([self._input(name, content) for name, content in some])
            for (name, _), probabilities in zip(some, self._cohort.predict(batch)[0], strict=True):
                yield self._prediction(name, probabilities, top)

    def _input(self, name: str, content: bytes) -> torch.Tensor:
        return eval_crop(decode_resize(content, self._preprocessing, name), self._preprocessing)

    def _prediction(self, name: str, probabilities: torch.Tensor, top: int) -> Prediction:
        names = self.bundle.manifest.class_names
        values, places = probabilities.topk(min(top, len(names)))
        classes = zip(places.tolist(), values.tolist(), strict=True)
        return Prediction(image=name, classes=tuple((names[place], value) for place, value in classes))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"image {str(path)!r} cannot be read ({error.strerror}); give paths of image files") from error


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
