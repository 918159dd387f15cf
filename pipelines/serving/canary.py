"""A share of a tuner's requests goes to another alias of the same model."""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

from pipelines.serving.failures import ServingError


@dataclass(frozen=True, kw_only=True)
class Canary:
    """`share` of the requests for `tuner` are answered by its version under `alias`."""

    tuner: str
    alias: str
    share: float

    @property
    def slot(self) -> str:
        """The name under which that version is held, and may be asked for."""
        return f"{self.tuner}@{self.alias}"

    def takes(self, request_id: str) -> bool:
        """Whether it takes a request: the same answer for the same id, on any server."""
        drawn = int.from_bytes(sha256(f"{self.tuner}\n{request_id}".encode()).digest()[:8], "big")
        return drawn / 2**64 < self.share


def parse_canary(text: str, tuners: Collection[str]) -> Canary:
    """Read `[TUNER@]ALIAS=SHARE`; the tuner may be left out where one alone has an alias.

    Args:
        text: what was given.
        tuners: names that are served through an alias.

    Raises:
        ServingError: it cannot be understood, or is of no tuner that is served.
    """
    who, equals, share_text = text.partition("=")
    tuner, at, alias = who.rpartition("@")
    try:
        share = float(share_text)
    except ValueError:
        share = -1.0
    if not equals or not alias or not 0 <= share <= 1:
        raise ServingError(f"--canary {text!r} cannot be understood; give ALIAS=SHARE, such as candidate=0.1")
    served = ", ".join(sorted(tuners)) or "none"
    if not at and len(tuners) != 1:
        raise ServingError(
            f"--canary {text!r} names no tuner, and {len(tuners)} are served through an alias ({served}); "
            f"give TUNER@{text}"
        )
    tuner = tuner if at else next(iter(tuners))
    if tuner not in tuners:
        raise ServingError(f"--canary {text!r} is of {tuner!r}; served through an alias: {served}")
    return Canary(tuner=tuner, alias=alias, share=share)
