"""Predictions from a bundle: no Ray, no tracking server."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

    def predict(self, images: Sequence[Path], *, top: int = 5) -> Iterable[Prediction]:
        """Yield a prediction for each image file.

        Raises:
            DataError: a file that is missing or cannot be decoded.
        """
        for start in range(0, len(images), MAX_BATCH):
            paths = images[start : start + MAX_BATCH]
            batch = torch.stack([self._input(path) for path in paths])
            for path, probabilities in zip(paths, self._cohort.predict(batch)[0], strict=True):
                yield self._prediction(path, probabilities, top)

    def _input(self, path: Path) -> torch.Tensor:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"image {str(path)!r} cannot be read ({error.strerror}); give paths of image files"
            ) from error
        return eval_crop(decode_resize(data, self._preprocessing, str(path)), self._preprocessing)

    def _prediction(self, path: Path, probabilities: torch.Tensor, top: int) -> Prediction:
        names = self.bundle.manifest.class_names
        values, places = probabilities.topk(min(top, len(names)))
        classes = zip(places.tolist(), values.tolist(), strict=True)
        return Prediction(image=str(path), classes=tuple((names[place], value) for place, value in classes))


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
