"""The same server as a Ray Serve application: each replica holds the backbone and all tuners.

serve run pipelines.serving.ray_app:application bundles=champion,other max_batch=32
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from ray import serve

from pipelines.serving.app import create_app
from pipelines.serving.failures import ServingError
from pipelines.serving.handler import Handler
from pipelines.serving.opening import open_all, opener
from pipelines.serving.settings import Settings
from utuning.errors import nearest

SETTINGS = tuple(each.name for each in fields(Settings))
OWN = ("bundles", "canary", "weights", "home", "tracking_uri", "num_replicas", "num_gpus")


def application(args: Mapping[str, Any]) -> Any:
    """Build the application, as `serve run` and `serve.run` take it.

    Args:
        args: `bundles` and `canary` (separated by commas), `weights`, `home`, `tracking_uri`, `num_replicas`,
            `num_gpus` of each, and the fields of `Settings`.

    Raises:
        ServingError: an unknown argument, no bundle, or a setting that cannot be.
    """
    for key in args:
        if key not in (*OWN, *SETTINGS):
            raise ServingError(f"the application has an unknown argument {key!r}; {nearest(key, (*OWN, *SETTINGS))}")
    bundles, canaries = (_listed(args.get(key, "")) for key in ("bundles", "canary"))
    if not bundles:
        raise ServingError("the application has no bundle; give bundles=FOLDER or bundles=NAME@ALIAS, with commas")
    settings = _settings({key: value for key, value in args.items() if key in SETTINGS})
    home, tracking_uri, weights = Path(args.get("home", "runs")), args.get("tracking_uri"), args.get("weights")

    def build() -> FastAPI:
        open_registry = opener(home, tracking_uri)
        return create_app(Handler(open_all(bundles, canaries, settings, open_registry, weights), settings))

    deployment = serve.deployment(serve.ingress(build)())
    return deployment.options(
        name="utuning",
        num_replicas=int(args.get("num_replicas", 1)),
        # Ray's own bound is five: too few to fill a batch.
        max_ongoing_requests=settings.max_requests,
        ray_actor_options={"num_gpus": float(args.get("num_gpus", 0))},
    ).bind()


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _settings(given: Mapping[str, Any]) -> Settings:
    """Settings from text, as a command line has them, or from values."""
    values = {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in given.items()}
    for key in ("token", "models"):
        if key in given:
            values[key] = Path(given[key]) if key == "models" else str(given[key])
    try:
        return Settings(**values)
    except TypeError as error:
        raise ServingError(
            f"the settings {dict(values)} cannot be used ({error}); give numbers where they are due"
        ) from error
