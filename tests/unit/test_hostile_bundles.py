"""Hostile bundles: each is a clear error that says what was given, what is allowed and what to do next."""

import io
import json
import os
import pickle
import re
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bundles import NAMES, replace, restate, retensor, retrial, rewrite, save
from tests.tools import adapter, tiny_backbone
from utuning.backbone import Backbone
from utuning.bundles.bundle import CARD, MANIFEST, PROBE, TENSORS, read_bundle
from utuning.bundles.tensor_file import check_header
from utuning.errors import BundleError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sound") / "bundle", tiny_backbone(), adapter("attn"))[0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def in_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def header(*, size: int | None = None, data: int = 0, **tensors: Any) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(data)


def tensor(shape: Any, start: Any = 0, stop: Any = 0, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def zipped() -> bytes:
    buffer = io.BytesIO()
    torch.save({"head.bias": torch.zeros(5)}, buffer)
    assert zipfile.is_zipfile(buffer)
    return buffer.getvalue()


def option(**options: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda values: values["backbone"]["options"].update(options))


def field(**fields: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda values: values.update(fields))


def setting(**settings: Any) -> Callable[[Path], None]:
    return lambda path: retrial(path, lambda trial: trial["tuners"][0]["settings"].update(settings))


Case = tuple[Callable[[Path], object], str]
READING: dict[str, Case] = {
    # files
    "no folder": (shutil.rmtree, "there is no such folder"),
    "a file in place of the folder": (lambda p: (shutil.rmtree(p), p.write_text("")), "there is no such folder"),
    "a missing tensor file": (lambda p: (p / TENSORS).unlink(), f"incomplete: {TENSORS} is missing"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), f"incomplete: {MANIFEST} is missing"),
    "an extra file": (lambda p: (p / "extra.py").write_text(""), "extra.py is not in the bundle's manifest"),
    "an extra pickle": (lambda p: (p / "a.pkl").write_bytes(pickle.dumps(1)), "a.pkl is not in the bundle's manifest"),
    "a folder inside": (lambda p: (p / "code").mkdir(), "code is no regular file"),
    "a linked tensor file": (lambda p: linked(p / TENSORS), "is a link"),
    "a linked manifest": (lambda p: linked(p / MANIFEST), "is a link"),
    "a pipe as card": (lambda p: pipe(p / CARD), "is no regular file"),
    "a manifest of a terabyte": (lambda p: sparse(p / MANIFEST), "1,099,511,627,776 bytes; allowed: at most"),
    "tensors of a terabyte": (lambda p: sparse(p / TENSORS), "1,099,511,627,776 bytes; allowed: at most"),
    "a flipped bit": (lambda p: flip(p / TENSORS), "altered or cut short"),
    "truncated tensors": (lambda p: cut(p / TENSORS, 100), "altered or cut short"),
    "an empty tensor file": (lambda p: cut(p / TENSORS, 0), "altered or cut short"),
    "an altered card": (lambda p: flip(p / CARD), "altered or cut short"),
    "an altered probe": (lambda p: flip(p / PROBE), "altered or cut short"),
    # the manifest
    "a label changed by hand": (lambda p: in_text(p / MANIFEST, "ant", "ape"), "was altered: its own digest"),
    "a digest cut off": (lambda p: in_text(p / MANIFEST, '"manifest_digest"', '"other"'), "no manifest_digest"),
    "a truncated manifest": (lambda p: cut(p / MANIFEST, 200), "no valid JSON"),
    "a manifest in another encoding": (lambda p: (p / MANIFEST).write_text("{}", "utf-16"), "no valid JSON"),
    "a manifest that is a list": (lambda p: (p / MANIFEST).write_text("[]"), "holds a list; allowed: a JSON object"),
    "a manifest that is a pickle": (lambda p: (p / MANIFEST).write_bytes(pickle.dumps({})), "no valid JSON"),
    "JSON nested deeply": (lambda p: (p / MANIFEST).write_text('{"a":' * 50 + "1" + "}" * 50), "nested deeper than 32"),
    "JSON nested without end": (lambda p: (p / MANIFEST).write_text("[" * 10**5), "nested too deeply"),
    "a number of a million digits": (lambda p: (p / MANIFEST).write_text('{"a":' + "9" * 10**6 + "}"), "no valid JSON"),
    "a key twice": (lambda p: in_text(p / MANIFEST, "{", '{"schema_version": 2,'), "a key stands in an object twice"),
    "NaN among the metrics": (lambda p: in_text(p / MANIFEST, "1.25", "NaN"), "NaN is no JSON number"),
    "an infinite metric": (lambda p: in_text(p / MANIFEST, "1.25", "1e999"), "altered"),
    "a future schema": (field(schema_version=99), "schema version 99, this package reads 3; upgrade it"),
    "a former schema": (field(schema_version=2), "schema version 2, this package reads 3; train again"),
    "a schema in words": (field(schema_version="3"), "schema version 3, this package reads 3"),
    "no trial": (lambda p: rewrite(p, lambda v: v.pop("trial")), "manifest lacks 'trial'"),
    "an unknown key": (field(clas_names=[]), "unknown key 'clas_names'; did you mean 'class_names'"),
    "labels that are numbers": (field(class_names=[1, 2, 3, 4, 5]), r"class_names\[0\] is 1; allowed: text"),
    "a label twice": (field(class_names=["ant", "ant", "cat", "dog", "eel"]), "class_names of which 4 differ"),
    "fewer labels than classes": (field(class_names=["ant"]), "number of class_names is 1, and its trial that it is 5"),
    "another trial's id": (field(trial_id="0" * 12), "says that trial_id is '000000000000', and its trial that it is"),
    "another fingerprint than its trial's": (field(backbone_fingerprint="f" * 64), "says that backbone_fingerprint is"),
    "a name that leaves the folder": (
        lambda p: rewrite(p, lambda v: v["files"].update({"../../etc/passwd": v["files"][CARD]})),
        "lists ../../etc/passwd",
    ),
    "an absolute name": (
        lambda p: rewrite(p, lambda v: v["files"].update({"/etc/passwd": v["files"].pop(CARD)})), "lists /etc/passwd"
    ),
    "an image size beyond reason": (
        lambda p: rewrite(p, lambda v: v["backbone"].update(img_size=10**9)), "img_size 1000000000; allowed: 1 to 4096"
    ),
    "a backbone wider than reason": (option(embed_dim=10**9), "option 'embed_dim' = 1000000000"),
    "a backbone that unpickles a file": (option(checkpoint_path="/tmp/a.pth"), "option 'checkpoint_path'"),
    "a backbone with weights from elsewhere": (option(pretrained_cfg_overlay={}), "option 'pretrained_cfg_overlay'"),
    "a package that leaves its folder": (
        lambda p: rewrite(p, lambda v: v["backbone"].update(weights="package://os/../../a.safetensors")),
        "allowed: package",
    ),
    # the tensors
    "a pickle renamed": (lambda p: replace(p, pickle.dumps({"head.bias": [0.0]})), "no safetensors file"),
    "a torch file renamed": (lambda p: replace(p, zipped()), "no safetensors file"),
    "a header longer than the file": (lambda p: replace(p, header(size=2**62)), "promise a header of 4,611,686,018"),
    "seven bytes": (lambda p: replace(p, bytes(7)), "no safetensors file"),
    "a header that is no JSON": (lambda p: replace(p, struct.pack("<Q", 4) + b"\x80\x04K\x01"), "no valid JSON"),
    "a header nested deeply": (
        lambda p: replace(p, struct.pack("<Q", 10**5) + b"[" * 10**5), "header of .* is no valid JSON"
    ),
    "giant sizes": (lambda p: replace(p, header(a=tensor([2**40, 2**20]))), "takes 4,611,686,018,427,387,904 bytes"),
    "sizes that overflow": (lambda p: replace(p, header(a=tensor([2**62, 4]))), "takes 73,786,976,294,838,206,464"),
    "a number too large for any size": (lambda p: replace(p, header(a=tensor([10**4000]))), "sizes of 0 or more"),
    "a negative size": (lambda p: replace(p, header(a=tensor([-1]))), "sizes of 0 or more"),
    "a size in words": (lambda p: replace(p, header(a=tensor(["5"]))), "sizes of 0 or more"),
    "ten thousand dimensions": (lambda p: replace(p, header(a=tensor([1] * 10**4))), "up to 8 sizes"),
    "an unknown dtype": (lambda p: replace(p, header(a=tensor([1], 0, 4, "OBJECT"))), "allowed dtypes: F64, F32"),
    "offsets beyond the file": (lambda p: replace(p, header(a=tensor([1], 4, 8), data=4)), "allowed: 0"),
    "offsets that overlap": (
        lambda p: replace(p, header(a=tensor([1], 0, 4), b=tensor([1], 0, 4), data=4)), "puts 'b' at byte 0"
    ),
    "bytes after the tensors": (lambda p: replace(p, (p / TENSORS).read_bytes() + b"more"), "promises .* of tensors"),
    "NaN weights": (
        lambda p: retensor(p, lambda t: t["head.weight"][0].fill_(torch.nan)), "32 of 160 values in 'head.weight'"
    ),
    "infinite weights": (lambda p: retensor(p, lambda t: t["head.bias"].fill_(-torch.inf)), "NaN or infinite"),
    "half precision": (
        lambda p: retensor(p, lambda t: t.update({"head.bias": torch.zeros(5).half()})), "head.bias as torch.float16"
    ),
    "a probe without logits": (lambda p: retensor(p, lambda t: t.pop("logits"), PROBE), "allowed: images and logits"),
    "a probe of other classes": (
        lambda p: retensor(p, lambda t: t.update(logits=torch.zeros(2, 9)), PROBE), "float32 row of 5 logits"
    ),
    "a probe of large images": (
        lambda p: retensor(p, lambda t: t.update(images=torch.zeros(2, 3, 512, 512).byte()), PROBE), "at most 64 px"
    ),
}  # fmt: skip
FITTING: dict[str, Case] = {
    "a missing tensor": (lambda p: retensor(p, lambda t: t.pop("head.bias")), "missing head.bias"),
    "an extra tensor": (lambda p: retensor(p, lambda t: t.update(extra=torch.zeros(1))), "unexpected extra"),
    "a tensor of another shape": (
        lambda p: retensor(p, lambda t: t.update({"head.bias": torch.zeros(2)})), r"head.bias is \(2,\) .* not \(5,\)"
    ),
    "a tensor of another dtype": (
        lambda p: retensor(p, lambda t: t.update({"head.bias": torch.zeros(5).int()})), "torch.int32, not"
    ),
    "a width of a billion": (setting(bottleneck_dim=10**9), "does not fit its own manifest"),
    "a width in words": (setting(bottleneck_dim="wide"), "cannot be built on"),
    "a negative width": (setting(bottleneck_dim=-4), "does not fit its own manifest|cannot be built on"),
    "an unknown setting": (setting(width=4), "p_adapter has no setting 'width'"),
    "an unknown method": (
        lambda p: (retrial(p, lambda t: t["tuners"][0].update(method="x")), field(method="x")(p)), "cannot be built on"
    ),
    "other preprocessing": (
        lambda p: rewrite(p, lambda v: v["preprocessing"].update(mean=[0.1, 0.2, 0.3])), "mean=.0.1, 0.2, 0.3.*but this"
    ),
    "logits of another tuner": (
        lambda p: retensor(p, lambda t: t["logits"].add_(0.1), PROBE), "probe images otherwise .* allowed: 0.001"
    ),
    "weights of another tuner": (
        lambda p: retensor(p, lambda t: t["head.weight"].neg_()), "probe images otherwise .* allowed: 0.001"
    ),
}  # fmt: skip


def clear(message: str) -> None:
    """What to do next stands at the end, and nothing of Python's own."""
    assert re.search(
        r"(pull the bundle again|makes one|upgrade it|older package|copy what it points to|train again|each once"
        r"|another epoch or trial|the manifest names)$",
        message,
    ), message
    assert len(message) < 1000 and "Traceback" not in message


@pytest.mark.parametrize("name", READING)
def test_a_hostile_bundle_is_refused_when_it_is_read(sound: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(sound, tmp_path / "bundle")
    damage, says = READING[name]
    damage(path)
    tracemalloc.start()
    with pytest.raises(BundleError, match=says) as error:
        read_bundle(path)
    assert tracemalloc.get_traced_memory()[1] < 200e6, "nothing of what is promised was allocated"
    tracemalloc.stop()
    clear(str(error.value))


@pytest.mark.parametrize("name", FITTING)
def test_a_hostile_bundle_is_refused_when_it_is_put_on_its_backbone(
    backbone: Backbone, sound: Path, tmp_path: Path, name: str
) -> None:
    path = shutil.copytree(sound, tmp_path / "bundle")
    damage, says = FITTING[name]
    damage(path)
    bundle = read_bundle(path)
    with pytest.raises(BundleError, match=says) as error:
        bundle.member(backbone)
    clear(str(error.value))


def test_another_backbone_is_refused_and_both_are_named(backbone: Backbone, sound: Path) -> None:
    other = tiny_backbone(seed=1)
    with pytest.raises(BundleError) as error:
        read_bundle(sound).member(other)
    assert backbone.fingerprint[:16] in str(error.value)
    assert other.fingerprint[:16] in str(error.value)


def test_the_sound_one_is_sound(backbone: Backbone, sound: Path, tmp_path: Path) -> None:
    """The ways in which tests alter bundles are sound too: what they leave as it was is read."""
    path = shutil.copytree(sound, tmp_path / "bundle")
    for again in (lambda: rewrite(path, lambda v: None), lambda: retensor(path, lambda t: None), lambda: restate(path)):
        again()
        assert read_bundle(path).manifest.class_names == NAMES
    read_bundle(path).member(backbone)


def test_an_empty_tensor_and_metadata_are_allowed_in_a_header() -> None:
    check_header(header(__metadata__={"format": "pt"}, a=tensor([0, 5]), b=tensor([], 0, 4), data=4), "it")
