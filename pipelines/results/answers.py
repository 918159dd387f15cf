"""Which images of test a run gets right: a bit an image, kept with the run, so that runs can be compared in pairs."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utuning.errors import TrackingError

FOLDER, FILE = "test", "answers.json"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Whether each image of test, in the order of the stored split, is answered right: shape (N,), booleans."""

    data_fingerprint: str
    right: np.ndarray

    def write(self, folder: Path) -> Path:
        """Write the file, eight images a byte."""
        packed = base64.b64encode(np.packbits(self.right).tobytes()).decode()
        fields = {"data_fingerprint": self.data_fingerprint, "num_images": len(self.right), "right": packed}
        file = folder / FILE
        file.write_text(json.dumps(fields) + "\n")
        return file

    @classmethod
    def read(cls, folder: Path) -> "Answers":
        """Read it back.

        Raises:
            TrackingError: it is not what was written.
        """
        try:
            fields = json.loads((folder / FILE).read_text())
            packed = np.frombuffer(base64.b64decode(fields["right"], validate=True), dtype=np.uint8)
            right = np.unpackbits(packed, count=int(fields["num_images"])).astype(bool)
            return cls(data_fingerprint=str(fields["data_fingerprint"]), right=right)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrackingError(
                f"the run's {FOLDER}/{FILE} cannot be understood ({type(error).__name__}: {error}); the images of this "
                "run cannot be compared: search again, or compare seeds alone"
            ) from error
