"""Which trial becomes the champion: pure decisions over val accuracy. What was measured on test never enters."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from utuning.errors import TrackingError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained trial as promotion sees it; `val` is its accuracy on the val split, from 0 to 1."""

    run_id: str
    config_id: str
    val: float
    trainable_params: int
    protocol: str
    data_fingerprint: str
    backbone_fingerprint: str

    def as_tags(self) -> dict[str, str]:
        """Text that `from_tags` reads back: what a promoted version remembers."""
        return {key: str(value) for key, value in asdict(self).items() if key != "run_id"}

    @classmethod
    def from_tags(cls, run_id: str, tags: Mapping[str, str]) -> "Candidate":
        """Rebuild a candidate; one that was registered by hand, without these tags, is comparable to nothing."""
        return cls(
            run_id=run_id,
            config_id=tags.get("config_id", ""),
            val=float(tags.get("val", "nan")),
            trainable_params=int(tags.get("trainable_params", "0")),
            protocol=tags.get("protocol", ""),
            data_fingerprint=tags.get("data_fingerprint", ""),
            backbone_fingerprint=tags.get("backbone_fingerprint", ""),
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to promote, and why, for a person to read."""

    promote: bool
    reason: str


def best(candidates: Iterable[Candidate]) -> Candidate:
    """Give the one with the best val; of equals the one with fewer trainable parameters, then the first config_id.

    Raises:
        TrackingError: none has a val accuracy.
    """
    measured = [candidate for candidate in candidates if math.isfinite(candidate.val)]
    if not measured:
        raise TrackingError(
            "no trial has a val accuracy, so none can become champion; look for the trials' errors in the leaderboard"
        )
    return min(measured, key=lambda it: (-it.val, it.trainable_params, it.config_id))


def decide(candidate: Candidate, champion: Candidate | None) -> Decision:
    """Promote a candidate when there is no champion, when it is better, or when the two cannot be compared."""
    if champion is None:
        return Decision(promote=True, reason=f"there was no champion; val {candidate.val:.2%}")
    if candidate.run_id == champion.run_id:
        return Decision(promote=False, reason="this run is the champion already")
    if difference := _difference(candidate, champion):
        return Decision(promote=True, reason=f"not comparable with the champion ({difference}): the newer one is taken")
    numbers = f"val {candidate.val:.2%}, the champion's is {champion.val:.2%}"
    better = candidate.val > champion.val
    return Decision(promote=better, reason=f"{'better' if better else 'not better'}: {numbers}")


def _difference(one: Candidate, other: Candidate) -> str:
    pairs = {
        "data fingerprint": (one.data_fingerprint, other.data_fingerprint),
        "protocol": (one.protocol, other.protocol),
    }
    return "; ".join(f"{name} {new!r} instead of {old!r}" for name, (new, old) in pairs.items() if new != old)
