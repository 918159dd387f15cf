"""A bundle as an MLflow model. Every registered version has a copy of this file, and of the `utuning` package.

It runs where the version is loaded, and knows MLflow and `utuning` alone. Two settings say what lies on that machine,
each by the `model_config` of `mlflow.pyfunc.load_model` or else by the environment:

- `weights`, UTUNING_WEIGHTS: where the backbone's weights lie; the place that the bundle names if left out.
- `image_root`, UTUNING_IMAGE_ROOT: the folder in which images may be named by path; none may if left out.
"""

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pandas import DataFrame

from utuning.errors import DataError, UTuningError
from utuning.predict import Predictor

COLUMN = "image"
ALLOWED = "allowed: an image file's bytes, their base64 text, or the path of an image below the image root"


class BundleModel(PythonModel):  # type: ignore[misc]
    """Images to labels: a DataFrame with the column `image` to one with `label`, `score` and `top`."""

    def load_context(self, context: Any) -> None:
        """Read the bundle, load its backbone, and ask the probe."""
        settings = context.model_config or {}
        weights, self._root = _setting(settings, "weights"), _root(_setting(settings, "image_root"))
        try:
            self._predictor = Predictor.open(Path(context.artifacts["bundle"]), weights=weights)
        except UTuningError as error:
            hint = "the environment's UTUNING_WEIGHTS, or model_config={'weights': …}, says where weights lie here"
            raise MlflowException(f"{error}; {hint}") from error

    def predict(self, context: Any, model_input: DataFrame, params: Mapping[str, Any] | None = None) -> DataFrame:
        """Name the `top` most probable classes of each image; `score` is a probability in [0, 1].

        Raises:
            MlflowException: what is no image, said with its row; no row is answered then.
        """
        try:
            top = _checked_top((params or {}).get("top", 5))
            images = [self._image(row, value) for row, value in enumerate(_flat(model_input[COLUMN]))]
            found = [prediction.classes for prediction in self._predictor.classify(images, top=top)]
        except UTuningError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        return DataFrame(
            {
                "label": [classes[0][0] for classes in found],
                "score": [classes[0][1] for classes in found],
                "top": [[{"label": label, "score": score} for label, score in classes] for classes in found],
            }
        )

    def _image(self, row: int, value: Any) -> tuple[str, bytes]:
        """The image's name in messages, and its bytes. Base64 has no dot, and a path needs one."""
        if isinstance(value, bytes | bytearray | memoryview):
            return f"row {row}", bytes(value)
        if not isinstance(value, str):
            raise DataError(f"row {row} holds a {type(value).__name__}; {ALLOWED}")
        if "." in value:
            return value, self._read(row, value)
        try:
            return f"row {row}", base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"row {row} is no base64 text ({error}); {ALLOWED}") from error

    def _read(self, row: int, name: str) -> bytes:
        if self._root is None:
            raise DataError(
                f"row {row} is the path {name[:200]!r}, and no image root is set here; send the image's bytes as "
                "base64, or set UTUNING_IMAGE_ROOT to a folder whose images may be read"
            )
        # Nothing is said of what lies outside: not even whether it is there.
        try:
            path = (self._root / name).resolve()
            if path.is_relative_to(self._root) and path.is_file():
                return path.read_bytes()
        except (OSError, ValueError):  # a name that no file can have, or no right to read it
            pass
        raise DataError(f"row {row}: no image {name[:200]!r} can be read below the image root; {ALLOWED}")


def _setting(settings: Mapping[str, Any], name: str) -> str | None:
    return settings.get(name) or os.environ.get(f"UTUNING_{name.upper()}") or None


def _root(folder: str | None) -> Path | None:
    if folder is None or Path(folder).is_dir():
        return Path(folder).resolve() if folder else None
    raise MlflowException(f"the image root {folder!r} is no folder; give one, or leave UTUNING_IMAGE_ROOT out")


def _flat(cells: Iterable[Any]) -> Iterator[Any]:
    """One value for each image: MLflow makes one cell of all the texts of a request's `inputs`."""
    for cell in cells:
        yield from cell if isinstance(cell, list) else [cell]


def _checked_top(top: Any) -> int:
    if top < 1:
        raise DataError(f"top is {top}; allowed: a whole number of at least 1")
    return int(top)


# How MLflow's models-from-code finds the model in its copy of this file.
set_model(BundleModel())
