"""A registered bundle behind `mlflow models serve`: the real process, images as base64, bytes and paths."""

import ast
import base64
import json
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from safetensors.torch import save_file

import pipelines.registry.pyfunc_model
from pipelines.registry.models import Registry
from pipelines.registry.packing import requirements
from pipelines.registry.pyfunc_model import BundleModel
from pipelines.registry.references import parse_reference
from pipelines.tracking.tracker import Tracker
from tests.registered import finished_run, mlflow
from tests.tools import tiny_backbone
from utuning.predict import Predictor

NAME = "utuning-served"


class World:
    """A champion, its backbone's weights, and a folder of images."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self.uri, self.folder = tracker.uri, folder
        registry = Registry(tracker)
        run_id = finished_run(tracker, folder / "work", 0, space="served")
        registry.promote(NAME, run_id, tags={"val": "0.6"})
        self.source = registry.resolve(parse_reference(NAME)).source.removeprefix("file://")
        self.bundle = registry.fetch(registry.resolve(parse_reference(NAME)), folder / "bundle")
        self.weights = folder / "backbone.safetensors"
        save_file(tiny_backbone().trunk.model.state_dict(), self.weights)
        self.images = folder / "images"
        (self.images / "deep").mkdir(parents=True)
        self.contents = [_png(colour) for colour in ("red", "green", "blue")]
        (self.images / "deep" / "one.png").write_bytes(self.contents[0])
        (folder / "secret.png").write_bytes(self.contents[1])
        (self.images / "link.png").symlink_to(folder / "secret.png")
        found = Predictor.open(self.bundle, weights=str(self.weights)).classify(("", each) for each in self.contents)
        self.expected = [list(prediction.classes) for prediction in found]


@pytest.fixture(scope="module")
def world(embedded: Tracker, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(embedded, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def address(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = {
        "MLFLOW_TRACKING_URI": world.uri,
        "UTUNING_WEIGHTS": str(world.weights),
        "UTUNING_IMAGE_ROOT": str(world.images),
    }
    command = ["models", "serve", "-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    with mlflow(tmp_path_factory.mktemp("serve"), *command, **environment) as address:
        yield f"{address}/invocations"


def _png(colour: str) -> bytes:
    made = BytesIO()
    Image.new("RGB", (40, 36), colour).save(made, "PNG")
    return made.getvalue()


def ask(address: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data=data, headers={"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_answers_to_base64_bytes_and_paths(world: World, address: str) -> None:
    texts = [base64.b64encode(content).decode() for content in world.contents]
    bytes_of = BytesIO()
    pd.DataFrame({"image": world.contents}).to_parquet(bytes_of)
    for body, kind in (
        ({"inputs": texts}, "application/json"),
        ({"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}}, "application/json"),
        ({"dataframe_records": [{"image": text} for text in texts], "params": {"top": 5}}, "application/json"),
        (bytes_of.getvalue(), "application/vnd.apache.parquet"),
    ):
        code, said = ask(address, body, kind)
        assert code == 200, said
        assert len(said["predictions"]) == len(world.expected)
        for row, expected in zip(said["predictions"], world.expected, strict=True):
            assert (row["label"], row["score"]) == (expected[0][0], pytest.approx(expected[0][1], abs=1e-5))
            assert [each["label"] for each in row["top"]] == [label for label, _ in expected]
    for path in ("deep/one.png", str(world.images / "deep" / "one.png")):
        code, said = ask(address, {"inputs": [path], "params": {"top": 2}})
        assert code == 200 and said["predictions"][0]["label"] == world.expected[0][0][0]
        assert len(said["predictions"][0]["top"]) == 2


def test_what_is_no_image_is_said_and_the_server_goes_on(world: World, address: str) -> None:
    good, whole = base64.b64encode(world.contents[0]).decode(), world.contents[1]
    cut = base64.b64encode(whole[: len(whole) // 2]).decode()
    huge = base64.b64encode(_promising(60_000)).decode()
    for inputs, says in (
        ([good, cut], "row 1"),
        ([good, "no base64!"], "row 1 is no base64 text"),
        ([base64.b64encode(b"text").decode()], "cannot be decoded"),
        ([huge], "cannot be decoded"),
        ([""], "cannot be decoded"),
        ([7], "row 0 holds a int"),
        ([None], "row 0 holds a NoneType"),
        (["../secret.png"], "can be read below the image root"),
        ([str(world.folder / "secret.png")], "can be read below the image root"),
        (["link.png"], "can be read below the image root"),
        (["deep/../../secret.png"], "can be read below the image root"),
        (["deep"], "row 0 is no base64 text|cannot be decoded"),
        (["./deep"], "can be read below the image root"),
        (["missing.png"], "can be read below the image root"),
        (["a\0.png"], "can be read below the image root"),
        (["x" * 5000 + ".png"], "can be read below the image root"),
    ):
        code, said = ask(address, {"inputs": inputs})
        assert code == 400 and any(each in said["message"] for each in says.split("|")), (inputs, said)
    assert ask(address, {"inputs": [good], "params": {"top": 0}})[0] == 400
    assert ask(address, {"inputs": [good], "params": {"top": "many"}})[0] == 400
    assert ask(address, {"dataframe_split": {"columns": ["picture"], "data": [[good]]}})[0] == 400
    assert ask(address, {"inputs": [good]})[0] == 200


def _promising(side: int) -> bytes:
    """A PNG whose header promises a square of this many pixels, and nothing else."""
    content = bytearray(_png("red"))
    content[16:24] = struct.pack(">II", side, side)
    return bytes(content)


def test_paths_are_refused_unless_a_root_is_given_and_weights_are_looked_for_where_they_lie(world: World) -> None:
    context = SimpleNamespace(artifacts={"bundle": str(world.bundle)}, model_config={"weights": "", "image_root": ""})
    with pytest.raises(MlflowException, match="UTUNING_WEIGHTS"):
        BundleModel().load_context(context)
    context.model_config |= {"weights": str(world.weights), "image_root": str(world.weights)}
    with pytest.raises(MlflowException, match="is no folder"):
        BundleModel().load_context(context)
    context.model_config["image_root"] = ""
    model = BundleModel()
    model.load_context(context)
    with pytest.raises(MlflowException, match=r"row 1 is the path .*no image root is set here"):
        model.predict(context, pd.DataFrame({"image": [world.contents[0], str(world.images / "deep" / "one.png")]}))
    answer = model.predict(context, pd.DataFrame({"image": world.contents}), {"top": 1})
    assert list(answer["label"]) == [classes[0][0] for classes in world.expected]


def test_a_model_holds_no_pickle_and_pins_what_serving_needs(world: World) -> None:
    folder = Path(world.source).parent.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".bin", ".pyc")]
    assert sum(path.stat().st_size for path in files) < 2**20
    assert (folder / "requirements.txt").read_text().split() == requirements()
    assert all("==" in line and "+" not in line for line in requirements())
    example = json.loads((folder / "serving_input_example.json").read_text())
    assert set(example) == {"dataframe_split"} and example["dataframe_split"]["columns"] == ["image"]


def test_the_models_file_knows_nothing_of_the_training_side() -> None:
    source = Path(pipelines.registry.pyfunc_model.__file__).read_text()
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in found]
    others = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert others == {"utuning", "mlflow", "pandas"}
