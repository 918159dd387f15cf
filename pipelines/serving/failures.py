"""What can go wrong for whoever starts a server, and for whoever asks it something."""

from utuning.errors import UTuningError

NUM_SHOWN = 80


class ServingError(UTuningError):
    """A server that cannot start as it was asked to."""


class RequestError(UTuningError):
    """A request that gets no answer.

    Args:
        status: the HTTP status.
        kind: one word that programs can rely on.
        message: what was given, what is allowed, what to do next.
        retry_after_s: when to ask again, where that helps.
    """

    def __init__(self, status: int, kind: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.retry_after_s = status, kind, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """What the HTTP answer says beside its text."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}

    def as_json(self) -> dict[str, dict[str, str]]:
        """The answer's body."""
        return {"error": {"kind": self.kind, "message": str(self)}}


def shown(value: object) -> str:
    """A value from elsewhere, short and on one line."""
    text = repr(value)
    return text if len(text) <= NUM_SHOWN else f"{text[: NUM_SHOWN - 1]}…"
