"""LoRA to and from the real `peft` library: the same logits, merged or not, both ways."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from pipelines.deployment.importing import Given, import_adapter
from tests.bundles import NAMES, save, trial
from tests.e2e.tools import NOWHERE, utuning_here
from tests.tools import TINY, adapter, batch, tiny_backbone
from utuning.backbone import Backbone
from utuning.bundles.bundle import read_bundle, save_bundle
from utuning.bundles.peft_export import CONFIG, WEIGHTS, to_peft, write_peft
from utuning.bundles.peft_import import from_peft, read_peft
from utuning.cohort import Cohort
from utuning.configs import BackboneConfig, TunerConfig
from utuning.errors import BundleError, ConfigError
from utuning.member import Member
from utuning.merging import merged_model


def lora(*ops: str, depths: Any = None, **settings: Any) -> TunerConfig:
    return TunerConfig(method="lora", ops=ops, depths=depths, settings=settings)


MINE: dict[str, tuple[TunerConfig, ...]] = {
    "q and v": (lora(),),
    "one scale that is no whole number": (lora(lora_rank=3, alpha=4.0),),
    "q, k and the projection": (lora(layers=("q", "k", "proj"), lora_rank=2),),
    "the whole fused layer": (lora(layers=("qkv",), lora_rank=2),),
    "attention and MLP": (lora("attn", "mlp", layers=("q", "v", "fc1", "fc2"), depths="last:2"),),
    "other ranks at other depths": (lora(lora_rank=2, depths=(0, 1)), lora(lora_rank=3, alpha=1.0, depths=(3,))),
}
THEIRS: dict[str, dict[str, Any]] = {
    "the fused layer": {"r": 4, "target_modules": ["qkv"]},
    "all linear layers": {"r": 4, "lora_alpha": 16, "target_modules": ["qkv", "attn.proj", "fc1", "fc2"]},
    "patterns": {
        "r": 4, "target_modules": ["qkv", "attn.proj"], "rank_pattern": {"attn.proj": 2},
        "alpha_pattern": {"blocks.1.attn.qkv": 3},
    },
    "a stabilised rank": {"r": 4, "lora_alpha": 16, "target_modules": ["qkv"], "use_rslora": True},
    "one block": {"r": 3, "target_modules": ["blocks.2.mlp.fc1"]},
}  # fmt: skip


def model_of(backbone: Backbone, classes: int = len(NAMES)) -> nn.Module:
    """The plain timm model with the backbone's weights, as somebody would who has never heard of this package."""
    model: nn.Module = timm.create_model(backbone.config.name, num_classes=classes, img_size=32, **TINY)
    missing = model.load_state_dict(backbone.trunk.model.state_dict(), strict=False).missing_keys
    assert missing == ["head.weight", "head.bias"]
    return model.eval()


def noisy(backbone: Backbone, *tuners: TunerConfig) -> Member:
    """A member whose every tensor matters."""
    member = Member.from_trial(backbone, trial(backbone, *tuners))
    generator = torch.Generator().manual_seed(0)
    member.load_tensors({k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in member.tensors().items()})
    return member


def mine(backbone: Backbone, member: Member) -> torch.Tensor:
    return Cohort(backbone, [member]).scores(batch(seed=3).images)[0]


@torch.no_grad()
def theirs(backbone: Backbone, model: nn.Module) -> torch.Tensor:
    scores: torch.Tensor = model.eval()(backbone.normalise(batch(seed=3).images))
    return scores


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MINE)
def test_peft_answers_what_the_bundle_answers_merged_or_not(backbone: Backbone, tmp_path: Path, name: str) -> None:
    member = noisy(backbone, *MINE[name])
    folder = write_peft(to_peft(backbone, member), backbone, len(NAMES), tmp_path / "peft")
    model = peft.PeftModel.from_pretrained(model_of(backbone), str(folder))
    expected = mine(backbone, member)
    close(theirs(backbone, model), expected)
    untouched = theirs(backbone, model_of(backbone))
    assert not torch.allclose(untouched, expected, atol=1e-2)
    merged = model.merge_and_unload()
    close(theirs(backbone, merged), expected)
    close(theirs(backbone, merged), theirs(backbone, merged_model(backbone, member)))


@pytest.mark.parametrize("name", THEIRS)
def test_a_bundle_answers_what_peft_answers(backbone: Backbone, tmp_path: Path, name: str) -> None:
    config = peft.LoraConfig(modules_to_save=["head"], init_lora_weights=False, **THEIRS[name])
    torch.manual_seed(0)
    model = peft.get_peft_model(model_of(backbone), config)
    model.save_pretrained(str(tmp_path / "peft"))
    found = from_peft(read_peft(tmp_path / "peft"), backbone)
    trained = trial(backbone, *found.tuners, num_classes=found.num_classes)
    member = Member.from_trial(backbone, trained)
    member.load_tensors(found.tensors)
    close(mine(backbone, member), theirs(backbone, model))
    bundle = save_bundle(
        tmp_path / "bundle", member, backbone=backbone, trial=trained, class_names=NAMES, metrics={}, versions={}
    )
    again = read_bundle(bundle).member(backbone)
    close(mine(backbone, again), theirs(backbone, model.merge_and_unload()))


def test_an_import_is_a_bundle(backbone: Backbone, tmp_path: Path) -> None:
    member, labels = noisy(backbone, lora()), tmp_path / "labels.txt"
    folder = write_peft(to_peft(backbone, member), backbone, len(NAMES), tmp_path / "peft")
    weights = tmp_path / "vit.safetensors"
    save_file(backbone.trunk.model.state_dict(), weights)
    config = BackboneConfig(name=backbone.config.name, weights=str(weights), img_size=32, options=TINY)
    labels.write_text("\n".join(NAMES))
    given = Given(form="peft", backbone=config, labels=labels)
    assert "lora with 5 classes" in import_adapter(folder, given, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.manifest.class_names, bundle.manifest.metrics) == (NAMES, {})
    close(mine(backbone, bundle.member(backbone)), mine(backbone, member))
    with pytest.raises(ConfigError, match="is not an empty folder"):
        import_adapter(folder, given, tmp_path / "bundle")
    labels.write_text("ant\nbee")
    with pytest.raises(ConfigError, match="has 2 classes and the head 5"):
        import_adapter(folder, given, tmp_path / "other")
    with pytest.raises(ConfigError, match="did you mean 'peft'"):
        import_adapter(folder, replace(given, form="peff"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["q and v", "q, k and the projection", "the whole fused layer", "attention and MLP"])
def test_there_and_back_are_the_same_tensors(backbone: Backbone, tmp_path: Path, name: str) -> None:
    member = noisy(backbone, *MINE[name])
    folder = write_peft(to_peft(backbone, member), backbone, len(NAMES), tmp_path / "peft")
    found = from_peft(read_peft(folder), backbone)
    assert found.tensors.keys() == member.tensors().keys()
    assert all(torch.equal(found.tensors[key], value) for key, value in member.tensors().items())
    again = Member.from_trial(backbone, trial(backbone, *found.tuners))
    again.load_tensors(found.tensors)
    close(mine(backbone, again), mine(backbone, member))


@pytest.mark.parametrize(
    "tuners",
    [(), (adapter("attn"),), (lora(), adapter("mlp")), (lora(), TunerConfig(method="bitfit")),
     (lora(), TunerConfig(method="mlp_head"))],
)  # fmt: skip
def test_what_peft_has_no_word_for_is_refused(backbone: Backbone, tuners: tuple[TunerConfig, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be written for peft; allowed: lora tuners with a linear head"):
        to_peft(backbone, Member.from_trial(backbone, trial(backbone, *tuners)))


def altered(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **values}))

    return change


def retensored(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def both(folder: Path) -> None:
        tensors = dict(read_peft(folder).tensors)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return both


FIRST = "base_model.model.blocks.0.attn.qkv"
PATCHES = "base_model.model.patch_embed.proj.lora_{}.weight"
STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "another method": (altered(peft_type="IA3"), "peft_type is 'IA3'; allowed: 'LORA'"),
    "DoRA": (altered(use_dora=True), "use_dora is True; allowed: LoRA without it"),
    "biases": (altered(bias="all"), "bias is 'all'; allowed: 'none'"),
    "a regular expression": (altered(alpha_pattern={"(a+)+": 1}), "is a regular expression; allowed: names of layers"),
    "no configuration": (lambda p: (p / CONFIG).unlink(), f"holds no {CONFIG}"),
    "a pickle alone": (lambda p: (p / WEIGHTS).rename(p / "adapter_model.bin"), f"holds no {WEIGHTS}"),
    "a truncated file": (lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:99]), "no safetensors file"),
    "no head": (retensored(lambda t: t.pop("base_model.model.head.bias")), r"modules_to_save=\['head'\]"),
    "half an update": (retensored(lambda t: t.pop(f"{FIRST}.lora_A.weight")), "allowed: A .r, in. and B .out, r."),
    "another tensor": (retensored(lambda t: t.update({f"{FIRST}.bias": torch.ones(1)})), "is not known"),
    "another width": (
        retensored(lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(16, 5)})), "from 5 to 96 features"
    ),
    "a convolution": (
        retensored(lambda t: t.update({PATCHES.format(letter): torch.ones(1, 1, 1, 1) for letter in "AB"})),
        "patch_embed.proj, which is no linear layer; .* attn.proj",
    ),
    "a layer that is not there": (
        retensored(lambda t: [t.update({k.replace("s.0.", "s.9."): t.pop(k)}) for k in [*t] if "s.0." in k]),
        "blocks.9.attn.qkv, which is no layer of an op",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_plain_lora_is_refused(backbone: Backbone, tmp_path: Path, name: str) -> None:
    folder = write_peft(to_peft(backbone, noisy(backbone, lora())), backbone, len(NAMES), tmp_path / "peft")
    change, says = STRANGE[name]
    change(folder)
    with pytest.raises((ConfigError, BundleError), match=says):
        from_peft(read_peft(folder), backbone)


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    return utuning_here(NOWHERE, "export", *arguments)


def test_the_command_writes_what_its_readme_loads(tmp_path: Path) -> None:
    weights, out = tmp_path / "vit.safetensors", tmp_path / "out"
    save_file(tiny_backbone().trunk.model.state_dict(), weights)
    backbone = Backbone.load("vit_tiny_patch16_224", weights=str(weights), img_size=32, options=TINY)
    path, member = save(tmp_path / "bundle", backbone, lora())
    done = export(path, "--to", "peft", "--out", out)
    assert done.returncode == 0 and "PeftModel.from_pretrained" in done.stdout
    (code,) = (out / "README.md").read_text().split("```python\n")[1:]
    said = code.partition("```")[0].replace("FOLDER", str(out)).replace("WEIGHTS.safetensors", str(weights))
    names: dict[str, Any] = {}
    exec(compile(said, "README.md", "exec"), names)
    close(theirs(backbone, names["model"]), mine(backbone, member))

    done = export(path, "--to", "peft", "--out", out)
    assert done.returncode == 1 and "is not an empty folder" in done.stderr
    done = export(path, "--to", "pefft", "--out", tmp_path / "x")
    assert done.returncode == 1 and "did you mean 'peft'" in done.stderr
    other, _ = save(tmp_path / "other", backbone, adapter("attn"))
    done = export(other, "--to", "peft", "--out", tmp_path / "x")
    assert done.returncode == 1 and "p_adapter cannot be written for peft" in done.stderr
    assert not (tmp_path / "x").exists()
