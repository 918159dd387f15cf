"""`utuning export` through the real command line, ONNX Runtime and torch.export: graphs answer what bundles answer."""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from tests.bundles import NAMES, save, trained, trial
from tests.e2e.tools import NOWHERE, utuning_here
from tests.tools import TINY, adapter, batch
from utuning.backbone import Backbone
from utuning.bundles.bundle import read_bundle, save_bundle
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.data.transforms import eval_transform

MORE = (*NAMES, "fox", "gnu")
CLOSE = 1e-4


def one(method: str, *ops: str, **given: object) -> TunerConfig:
    return TunerConfig(method=method, ops=ops, settings=given)


class Home:
    """Bundles on one tiny backbone, photos, and what is exported of them, once."""

    def __init__(self, root: Path) -> None:
        self.root, self.weights, self.photos = root, root / "vit.safetensors", root / "photos"
        options = {**TINY, "depth": 2}
        start = Backbone.load("vit_tiny_patch16_224", weights="none", img_size=32, options=options)
        save_file(start.trunk.model.state_dict(), self.weights)
        name = "vit_tiny_patch16_224"
        self.backbone = Backbone.load(name, weights=str(self.weights), img_size=32, options=options)
        self.bundles = {
            "prompts": (one("vpt_deep", num_tokens=3),),
            "dual": (adapter("attn", "mlp", bottleneck_dim=3), one("p_prefix", "block", num_tokens=4)),
            "lora": (one("lora", lora_rank=2, alpha=3.0),),
            "linear": (),
        }
        for name, tuners in self.bundles.items():
            save(root / name, self.backbone, *tuners)
        later = (adapter("attn", bottleneck_dim=5, scale="scalar"), one("lora", layers=("v",), lora_rank=3))
        config = trial(self.backbone, *later, num_classes=len(MORE))
        member = trained(self.backbone, config)
        save_bundle(
            root / "later", member, backbone=self.backbone, trial=config, class_names=MORE, metrics={}, versions={}
        )
        self.photos.mkdir()
        for number in range(5):
            photo = Image.new("RGB", (61 + number, 47), (40 * number, 90, 160))
            ImageDraw.Draw(photo).ellipse((9, 5 + number, 40, 40), fill=(230, 160 - 30 * number, 20))
            photo.save(self.photos / f"{number}.png")

    def export(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return utuning_here(NOWHERE, "export", *arguments)

    def expected(self, name: str, images: Tensor) -> Tensor:
        member = read_bundle(self.root / name).member(self.backbone)
        return Cohort(self.backbone, [member]).scores(images)[0]

    def out(self, name: str, *arguments: object) -> Path:
        """What the command makes, once."""
        to = self.root / "out" / name
        if not to.exists():
            assert self.export(*arguments, "--out", to, "--images", self.photos).returncode == 0
        return to

    def onnx(self) -> Path:
        return self.out("onnx", self.root / "prompts", "--to", "onnx")

    def onnx_bank(self) -> Path:
        room = ("--max-width", 8, "--max-classes", 9)
        return self.out("onnx-bank", self.root / "dual", self.root / "lora", "--to", "onnx-bank", *room)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def example(folder: Path, photo: Path) -> dict[str, Any]:
    """Run the example of a folder's README, and give its names."""
    (code,) = (folder / "README.md").read_text().split("```python\n")[1:]
    code = code.partition("```")[0].replace("FOLDER", str(folder)).replace("IMAGE", str(photo))
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def assert_sound(folder: Path, num_sets: int) -> None:
    parity = json.loads((folder / "parity.json").read_text())
    assert len(parity["checks"]) == 2 * num_sets and {check["batch_size"] for check in parity["checks"]} == {1, 3}
    for check in parity["checks"]:
        assert check["relative_difference"] <= CLOSE and check["same_class"] == check["num_rows"] > 1


def graph(folder: Path) -> Callable[..., Tensor]:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return lambda **inputs: torch.from_numpy(session.run(["logits"], inputs)[0])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=CLOSE, atol=CLOSE)


def test_the_engine_as_onnx(home: Home) -> None:
    folder = home.onnx()
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx", "labels.json", "preprocessing.json", "parity.json", "manifest.json", "README.md"
    }  # fmt: skip
    assert_sound(folder, 2)
    assert b".py" not in (folder / "model.onnx").read_bytes()
    images = batch(size=7, seed=5).images
    close(graph(folder)(images=images.numpy()), home.expected("prompts", images))
    (given,) = onnxruntime.InferenceSession(folder / "model.onnx").get_inputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, 32, 32], "tensor(uint8)")
    assert json.loads((folder / "labels.json").read_text()) == list(NAMES)
    assert (folder / "manifest.json").read_bytes() == (home.root / "prompts" / "manifest.json").read_bytes()


def test_its_readme_needs_no_package_of_ours(home: Home) -> None:
    photo = home.photos / "3.png"
    names = example(home.onnx(), photo)
    close(torch.from_numpy(names["logits"]), home.expected("prompts", torch.from_numpy(names["images"])))
    ours = eval_transform(home.backbone.preprocessing)(photo.read_bytes())
    # Pillow and torchvision round resized pixels apart.
    assert int((names["images"][0].astype(int) - ours.numpy().astype(int)).__abs__().max()) <= 2


def test_merged_as_pt2_and_without_pickle(home: Home) -> None:
    folder = home.out("pt2", home.root / "lora", "--to", "pt2")
    assert_sound(folder, 2)
    assert "merged into the backbone's own weights" in (folder / "README.md").read_text()
    names = example(folder, home.photos / "1.png")
    close(torch.from_numpy(names["logits"]), home.expected("lora", torch.from_numpy(names["images"])))
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}
    assert not any(b".py" in content for name, content in contents.items() if name.startswith("models/"))
    assert not any(content for name, content in contents.items() if name.endswith((".pt", ".pkl")))
    settings = [json.loads(content) for name, content in contents.items() if name.endswith("_config.json")]
    assert settings and not any(each["use_pickle"] for every in settings for each in every["config"].values())


def test_one_graph_serves_tuners_that_came_later(home: Home) -> None:
    folder = home.onnx_bank()
    assert_sound(folder, 2)
    run, images = graph(folder), batch(size=6, seed=5).images
    first, again = load_file(folder / "bank.safetensors"), [0, 1, 1, 0, 1, 0]
    found = run(images=images.numpy(), tuner=np.array(again), **first)
    expected = [home.expected(name, images) for name in ("dual", "lora")]
    close(found[:, :5], torch.stack([expected[tuner][row] for row, tuner in enumerate(again)]))
    assert (found[:, 5:] < -1e29).all() and not found.softmax(-1)[:, 5:].any()

    for names in (["later"], ["linear", "later", "dual"]):
        packed = home.out("-".join(names), *(home.root / n for n in names), "--to", "onnx-bank", "--graph", folder)
        assert not (packed / "model.onnx").exists()
        assert_sound(packed, 2)
        tuners = json.loads((packed / "bank.json").read_text())["tuners"]
        assert [tuner["name"] for tuner in tuners] == names
        tensors, rows = load_file(packed / "bank.safetensors"), np.arange(6) % len(names)
        logits = run(images=images.numpy(), tuner=rows, **tensors)
        for row, place in enumerate(rows):
            own = len(tuners[place]["labels"])
            close(logits[row, :own], home.expected(names[place], images)[row])


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_the_readme_of_a_bank(home: Home, form: str) -> None:
    bundles = (home.root / "dual", home.root / "lora")
    folder = home.onnx_bank() if form == "onnx" else home.out("pt2-bank", *bundles, "--to", "pt2-bank")
    assert_sound(folder, 2)
    names = example(folder, home.photos / "2.png")
    image = torch.from_numpy(names["images"][:1])
    for place, name in enumerate(("dual", "lora")):
        close(torch.from_numpy(names["logits"][place : place + 1, :5]), home.expected(name, image))


def test_a_graph_that_answers_otherwise_leaves_nothing(home: Home, tmp_path: Path) -> None:
    altered = shutil.copytree(home.onnx_bank(), tmp_path / "altered")
    model = onnx.load(altered / "model.onnx")
    (patches,) = [each for each in model.graph.initializer if each.name.endswith("patch_embed.proj.weight")]
    values = onnx.numpy_helper.to_array(patches)
    patches.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.1), patches.name))
    onnx.save(model, altered / "model.onnx")
    again = ("--to", "onnx-bank", "--graph", altered, "--out", tmp_path / "x")
    done = home.export(home.root / "later", *again)
    assert done.returncode == 1
    said = done.stderr
    assert "answers otherwise than the bundle: over 2 rows of probe images" in said and "nothing was written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["altered"]
    (altered / "model.onnx").write_bytes(b"no graph")
    done = home.export(home.root / "later", *again)
    assert done.returncode == 1 and "is no graph that ONNX Runtime reads" in done.stderr
    (altered / "bank.json").write_text('{"schema_version": 9}')
    done = home.export(home.root / "later", *again)
    assert done.returncode == 1 and "schema version 9, this package reads 1" in done.stderr


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown form": (("dual", "--to", "onxx"), "did you mean 'onnx'"),
    "several for one": (("dual", "lora", "--to", "onnx"), "onnx takes one bundle, and 2 are given"),
    "one folder twice": (("dual", "dual", "--to", "onnx-bank"), "two bundles are in folders named 'dual'"),
    "a bank's option": (("dual", "--to", "onnx", "--max-width", "3"), "--max-width is for a bank"),
    "room in a graph that is there": (
        ("dual", "--to", "pt2-bank", "--graph", "photos", "--max-width", "3"), "--graph names one that is there"
    ),
    "images for peft": (("lora", "--to", "peft", "--images", "photos"), "--images is for graphs"),
    "no image": (("lora", "--to", "pt2", "--images", "lora"), "holds no images"),
    "no graph": (("lora", "--to", "pt2-bank", "--graph", "photos"), "holds no bank.json"),
    "prompts in a bank": (("prompts", "--to", "onnx-bank"), "vpt_deep cannot be an input of a graph; allowed: adapter"),
    "no bundle": (("photos", "--to", "onnx"), "is not in the bundle's manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_exported_is_one_message(home: Home, tmp_path: Path, name: str) -> None:
    given, says = WRONG[name]
    arguments = [home.root / each if (home.root / each).exists() else each for each in given]
    done = home.export(*arguments, "--out", tmp_path / "x")
    assert done.returncode == 1 and says in done.stderr
    assert not list(tmp_path.iterdir())
