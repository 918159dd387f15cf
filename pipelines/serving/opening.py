"""From what was asked to be served to tuners that are held: everything is read and checked before a port opens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.registry.references import PREFIX, Reference, parse_reference
from pipelines.serving.aliases import Watched
from pipelines.serving.canary import Canary, parse_canary
from pipelines.serving.failures import ServingError
from pipelines.serving.settings import Settings
from pipelines.serving.shelf import Shelf
from pipelines.serving.sources import NAME, FolderSource, Found, RegistrySource, Source, check_name
from pipelines.workspace import Workspace
from utuning.bundles.bundle import Bundle
from utuning.errors import BundleError
from utuning.predict import best_device

if TYPE_CHECKING:
    from pipelines.registry.models import Registry

OpenRegistry = Callable[[], "Registry"]


@dataclass(frozen=True)
class Offer:
    """A tuner to be served: its name, where its bundles come from, and the one that lies there now."""

    name: str
    source: Source
    found: Found
    bundle: Bundle

    @classmethod
    def of(cls, name: str, source: Source) -> "Offer":
        """Read what the source points to now."""
        found = source.find()
        return cls(name, source, found, source.fetch(found))

    @property
    def reference(self) -> Reference | None:
        """Where it comes from, if it is a registry's alias, which may move."""
        if isinstance(self.source, RegistrySource) and self.source.reference.alias is not None:
            return self.source.reference
        return None


@dataclass(frozen=True)
class Opened:
    """What a handler serves."""

    shelf: Shelf
    watched: tuple[Watched, ...]
    canaries: tuple[Canary, ...]


def opener(home: Path, tracking_uri: str | None) -> OpenRegistry:
    """Opens the registry of a tracking store when the first reference needs it, and once."""

    @cache
    def open_registry() -> "Registry":
        from pipelines.registry.models import Registry
        from pipelines.tracking.tracker import Tracker

        workspace = Workspace(home)
        return Registry(Tracker.of(workspace, tracking_uri))

    return open_registry


def open_all(
    bundles: Sequence[str],
    canaries: Sequence[str],
    settings: Settings,
    open_registry: OpenRegistry,
    weights: str | None = None,
) -> Opened:
    """Read bundles, load the backbone of the first, and put all of them on it.

    Args:
        bundles: `[NAME=]FOLDER`, or `[NAME=]` and a reference to a registered model or a run.
        canaries: `[TUNER@]ALIAS=SHARE`.
        settings: what the server allows.
        open_registry: called when a reference is no folder.
        weights: where the backbone's weights lie here.

    Raises:
        UTuningError: something that cannot be served, or not together.
    """
    offers = [_offer(text, open_registry) for text in bundles]
    _check_names([offer.name for offer in offers])
    moving = {offer.name: offer.reference for offer in offers if offer.reference is not None}
    shares = tuple(parse_canary(text, moving) for text in canaries)
    _check_names([canary.tuner for canary in shares])
    offers += [_canary_offer(canary, moving[canary.tuner], open_registry) for canary in shares]
    backbone = offers[0].bundle.load_backbone(weights).to(best_device())
    shelf = Shelf(backbone, byte_budget=settings.byte_budget, storage=settings.storage)
    for offer in offers:
        _put(shelf, offer, offers[0])
    watched = tuple(Watched(offer.name, offer.source, offer.found) for offer in offers if offer.reference)
    return Opened(shelf, watched, shares)


def _offer(text: str, open_registry: OpenRegistry) -> Offer:
    name, equals, where = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        name, where = "", text
    folder = Path(where)
    if folder.is_dir():
        return Offer.of(check_name(name or folder.resolve().name), FolderSource(folder))
    reference = parse_reference(where)
    registry = open_registry()
    if not name:
        name = registry.resolve(reference).model_name.removeprefix(PREFIX)
    return Offer.of(check_name(name), RegistrySource(registry, reference))


def _canary_offer(canary: Canary, stable: Reference, open_registry: OpenRegistry) -> Offer:
    return Offer.of(canary.slot, RegistrySource(open_registry(), Reference(name=stable.name, alias=canary.alias)))


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ServingError(f"{twice[0]!r} is given {names.count(twice[0])} times; give each a name: NAME=BUNDLE")


def _put(shelf: Shelf, offer: Offer, first: Offer) -> None:
    if offer.bundle.manifest.backbone_fingerprint != shelf.backbone.fingerprint:
        raise BundleError(
            f"{offer.name!r} is of backbone {offer.bundle.manifest.backbone.name} "
            f"({offer.bundle.manifest.backbone_fingerprint[:16]}…), and {first.name!r} of "
            f"{shelf.backbone.config.name} ({shelf.backbone.fingerprint[:16]}…); a server has one backbone: start "
            "another server for the other"
        )
    gone = shelf.put(offer.name, offer.bundle, offer.found.version, offer.found.alias)
    if gone:
        raise ServingError(
            f"{offer.name!r} and {', '.join(gone)} do not fit the budget together; give more with --budget-mb"
        )
