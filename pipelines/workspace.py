"""Where a user's runs lie: one folder that holds data, searches, the tracking store and its artifacts."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folder of all that commands write; `runs` in the current folder by default."""

    root: Path

    @property
    def tracking_uri(self) -> str:
        """The embedded tracking store: sqlite."""
        return f"sqlite:///{self.root.absolute() / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Where the embedded tracking store keeps bundles."""
        return self.root.absolute() / "artifacts"

    def data(self, name: str) -> Path:
        """The folder of a prepared data set."""
        return self.root.absolute() / "data" / name

    @property
    def states(self) -> Path:
        """Cached states of frozen backbones, for all searches."""
        return self.root.absolute() / "states"

    @property
    def searches(self) -> Path:
        """What searches keep while they run: checkpoints and Ray's own state."""
        return self.root.absolute() / "searches"

    def statistics(self, key: str) -> Path:
        """Statistics of a data set as a backbone sees it."""
        return self.root.absolute() / "statistics" / f"{key}.json"

    def prediction(self, space_digest: str) -> Path:
        """What `utuning plan` said of a search, for its report."""
        return self.root.absolute() / "plans" / f"{space_digest}.json"
