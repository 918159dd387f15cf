"""A bundle's folder to an MLflow model's: pyfunc from code, no pickle, everything that serving needs but the backbone.

MLmodel, requirements.txt, …     what MLflow writes: signature, input example, pinned packages
pyfunc_model.py                  the model: a copy of the file of that name here
code/utuning/                    a copy of the package; no index has it, and a model has to answer as it did
artifacts/bundle/                the bundle
"""

import base64
import shutil
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from pipelines import provenance
from utuning.backbone import PACKAGE_SCHEME
from utuning.bundles.bundle import Bundle

HERE = Path(__file__).parent
BUNDLE = "artifacts/bundle"
REQUIRED = ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "pyarrow", "pyyaml", "pandas", "mlflow")
"""What `utuning.predict` and the model's file import; none of what only training needs."""
TOP = 5


def pack(bundle: Bundle, to: Path, *, run_id: str, model_id: str) -> Path:
    """Write the MLflow model of a bundle to the new folder `to`; the bundle's own folder has to be called `bundle`."""
    import mlflow
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, Object, ParamSchema, ParamSpec, Property, Schema
    from pandas import DataFrame

    assert bundle.path.name == Path(BUNDLE).name
    scored = Object([Property("label", "string"), Property("score", "double")])
    outputs = [ColSpec("string", "label"), ColSpec("double", "score"), ColSpec(Array(scored), "top")]
    signature = ModelSignature(
        # Bytes and text: any type, as a schema has one type for a column.
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("top", "long", TOP)]),
    )
    mlflow.pyfunc.save_model(
        str(to),
        python_model=str(HERE / "pyfunc_model.py"),
        artifacts={"bundle": str(bundle.path)},
        code_paths=[str(_code(bundle, to.parent / "code"))],
        signature=signature,
        input_example=DataFrame({"image": [_example(bundle)]}),
        pip_requirements=requirements(),
        model_config={"weights": "", "image_root": ""},
        metadata=_metadata(bundle),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )
    return to


def requirements() -> list[str]:
    """Exact versions of what serving needs; `2.11.0+cu130` is asked for as `2.11.0`, which package indexes have."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED]


def _metadata(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "utuning-on-ray": provenance.versions().get("utuning-on-ray", "unknown"),
        "trial_id": manifest.trial_id,
        "method": manifest.method,
        "backbone": manifest.backbone.name,
        "backbone_weights": manifest.backbone.weights,
        "backbone_fingerprint": manifest.backbone_fingerprint,
        "dataset": manifest.dataset,
        "data_fingerprint": manifest.data_fingerprint,
    }


def _code(bundle: Bundle, to: Path) -> Path:
    """Copy the package's Python files; and a backbone's weights, where they are the package's own."""
    import utuning

    source, weights = Path(utuning.__file__).parent, bundle.manifest.backbone.weights
    for file in source.rglob("*.py"):
        _copy(file, to / "utuning" / file.relative_to(source))
    inside = weights.removeprefix(f"{PACKAGE_SCHEME}utuning/")
    if inside != weights:
        _copy(source / inside, to / "utuning" / inside)
    return to / "utuning"


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def _example(bundle: Bundle) -> str:
    """The first of the probe's images as base64 text of a PNG."""
    from PIL import Image

    pixels = bundle.probe.images[0].permute(1, 2, 0).contiguous().numpy()
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()
