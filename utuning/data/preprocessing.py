"""The facts of how an image becomes a model input."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from utuning.data.faults import fault

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side to `resize`, crop `img_size` squared, scale by `mean` and `std`."""

    img_size: int
    resize: int
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Check the values."""
        if not 1 <= self.img_size <= self.resize:
            raise fault(
                f"img_size is {self.img_size} and resize is {self.resize}",
                "1 or more, and resize at least img_size",
                "correct the sizes",
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise fault(
                f"mean is {self.mean} and std is {self.std}",
                "three numbers each, those of std above 0",
                "correct the numbers",
            )
        if self.interpolation not in INTERPOLATIONS:
            raise fault(
                f"interpolation is {self.interpolation!r}",
                ", ".join(INTERPOLATIONS),
                "choose one of them",
            )

    @classmethod
    def from_crop_pct(
        cls,
        img_size: int,
        crop_pct: float,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
    ) -> "Preprocessing":
        """Build from the crop share that backbone configurations state."""
        if not 0 < crop_pct <= 1:
            raise fault(f"crop_pct is {crop_pct}", "above 0 and at most 1", "try 0.875")
        return cls(
            img_size=img_size,
            resize=int(img_size / crop_pct),
            mean=mean,
            std=std,
            interpolation=interpolation,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Rebuild from the JSON form."""
        try:
            return cls(
                img_size=int(fields["img_size"]),
                resize=int(fields["resize"]),
                mean=tuple(float(value) for value in fields["mean"]),
                std=tuple(float(value) for value in fields["std"]),
                interpolation=str(fields["interpolation"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise fault(
                f"The preprocessing {dict(fields)!r} cannot be understood",
                "img_size, resize, mean, std and interpolation, as saved",
                "save it again",
            ) from error
