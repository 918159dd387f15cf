"""The folder of an exported graph: the graph, what its inputs mean, and how far it agrees with the bundle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipelines.deployment.graph_readme import bank_readme, single_readme
from utuning.backbone import Backbone
from utuning.bundles.bundle import MANIFEST, Bundle
from utuning.bundles.files import parse_json, read_file
from utuning.bundles.plain import read_as
from utuning.bundles.probe import enlarged
from utuning.cohort import Cohort
from utuning.data.atomic import publish, writing_folder
from utuning.data.preprocessing import Preprocessing
from utuning.data.readers import image_files
from utuning.data.transforms import eval_transform
from utuning.errors import BundleError, ConfigError, DataError
from utuning.exporting.bank import Bank
from utuning.exporting.bank_model import BankModel
from utuning.exporting.families import MASKED
from utuning.exporting.graphs import FORMS, Run, check_form, trace
from utuning.exporting.parity import Check, check_parity, compare, report
from utuning.exporting.single import single_model
from utuning.member import Member

BANK, TENSORS, LABELS, PREPROCESSING, PARITY, CARD = (
    "bank.json",
    "bank.safetensors",
    "labels.json",
    "preprocessing.json",
    "parity.json",
    "README.md",
)
SCHEMA_VERSION = 1
MAX_IMAGES = 32
MAX_BANK_BYTES = 256 << 20
PACKAGES = {"onnx": ("torch", "onnx", "onnxscript", "onnxruntime"), "pt2": ("torch",)}


def write_single(bundle: Bundle, form: str, out: Path, weights: str | None, images: Path | None) -> str:
    """Write one tuner on its backbone as a graph; gives what to do with it."""
    check_form(form)
    backbone = bundle.load_backbone(weights)
    member = bundle.member(backbone)
    tests = _tests(bundle, images, backbone.preprocessing)
    module, merged = single_model(backbone, member)
    inputs = {"images": next(iter(tests.values()))}
    sizes = {"images": {0: "batch"}}
    program = trace(module, inputs, sizes)
    with writing_folder(out) as partial:
        FORMS[form].write(program, inputs, sizes, partial / FORMS[form].file)
        run = FORMS[form].open(partial / FORMS[form].file)
        checks = [
            check
            for name, pixels in tests.items()
            for check in compare(name, _of(run, {"images": pixels}), _scores(backbone, member, pixels))
        ]
        check_parity(checks, form)
        manifest = bundle.manifest
        _write_json(partial / LABELS, manifest.class_names)
        _write_common(partial, form, backbone.preprocessing, checks)
        (partial / MANIFEST).write_bytes(manifest.as_bytes())
        (partial / CARD).write_text(single_readme(manifest, form, merged), encoding="utf-8")
        publish(partial, out)
    return (
        f"{out}: {FORMS[form].file}, tuner {'merged into' if merged else 'beside'} the backbone; {_agreement(checks)}"
    )


def write_bank(
    bundles: Mapping[str, Bundle],
    form: str,
    out: Path,
    weights: str | None,
    images: Path | None,
    *,
    max_width: int | None,
    max_classes: int | None,
) -> str:
    """Write one backbone that takes tuners as inputs, and these bundles as its inputs; gives what to do with it."""
    check_form(form)
    backbone, members = _members(bundles, weights)
    bank = Bank.of(backbone, members, max_width, max_classes)
    tests = _rows(bundles, members, backbone, images)
    packed = bank.pack(backbone, members)
    inputs, sizes = _example(packed, tests)
    program = trace(BankModel(backbone, bank), inputs, sizes)
    with writing_folder(out) as partial:
        FORMS[form].write(program, inputs, sizes, partial / FORMS[form].file)
        run = FORMS[form].open(partial / FORMS[form].file)
        checks = _write_tuners(partial, form, bank, bundles, packed, run, tests)
        _write_common(partial, form, backbone.preprocessing, checks)
        (partial / CARD).write_text(bank_readme(bank, backbone.preprocessing, form), encoding="utf-8")
        publish(partial, out)
    return f"{out}: {FORMS[form].file} and {len(members)} tuners for it; {_agreement(checks)}"


def write_packed(
    bundles: Mapping[str, Bundle], form: str, graph: Path, out: Path, weights: str | None, images: Path | None
) -> str:
    """Write bundles as inputs of a graph that is there already; gives what to do with them."""
    check_form(form)
    bank = _read_bank(graph)
    file = graph / FORMS[form].file
    if not file.is_file():
        raise ConfigError(f"{graph} holds no {FORMS[form].file}; allowed: a folder that --to {form}-bank made")
    backbone, members = _members(bundles, weights)
    packed = bank.pack(backbone, members)
    tests = _rows(bundles, members, backbone, images)
    with writing_folder(out) as partial:
        checks = _write_tuners(partial, form, bank, bundles, packed, FORMS[form].open(file), tests)
        _write_json(partial / PARITY, report(checks, _versions(form)))
        publish(partial, out)
    return f"{out}: {len(members)} tuners for {file}; {_agreement(checks)}"


Rows = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""By what the images are called: images, the tuner of each, and the logits that it gives."""


def _rows(
    bundles: Mapping[str, Bundle], members: Mapping[str, Member], backbone: Backbone, images: Path | None
) -> Rows:
    """Each tuner with its probe images; the images of the folder with one tuner after another."""
    size = backbone.preprocessing.img_size
    probes = [enlarged(bundle.probe.images, size) for bundle in bundles.values()]
    asked = [torch.full((len(each),), place) for place, each in enumerate(probes)]
    sets = {"probe images": (torch.cat(probes), torch.cat(asked))}
    if images is not None:
        pixels = _read(images, backbone.preprocessing)
        places = torch.arange(max(len(pixels), len(members)))
        sets[images.resolve().name] = (pixels[places % len(pixels)], places % len(members))
    return {
        name: (pixels, tuner, _expected(backbone, members, pixels, tuner)) for name, (pixels, tuner) in sets.items()
    }


def _expected(backbone: Backbone, members: Mapping[str, Member], pixels: Tensor, tuner: Tensor) -> Tensor:
    """What each bundle alone gives for its rows, (R, C of the largest head)."""
    logits = torch.full((len(pixels), max(member.num_classes for member in members.values())), MASKED)
    for place, member in enumerate(members.values()):
        mine = tuner == place
        if mine.any():
            logits[mine, : member.num_classes] = _scores(backbone, member, pixels[mine])
    return logits


def _example(packed: Mapping[str, Tensor], tests: Rows) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments to record a graph with, and what is open in them."""
    pixels, tuner, _ = next(iter(tests.values()))
    # A size of 1 would be recorded as fixed.
    bank = {name: torch.cat([value, value])[: max(2, len(value))] for name, value in packed.items()}
    sizes = {"images": {0: "rows"}, "tuner": {0: "rows"}, "bank": {name: {0: "tuners"} for name in bank}}
    return {"images": pixels, "tuner": tuner, "bank": bank}, sizes


def _write_tuners(
    partial: Path,
    form: str,
    bank: Bank,
    bundles: Mapping[str, Bundle],
    packed: Mapping[str, Tensor],
    run: Run,
    tests: Rows,
) -> list[Check]:
    """Compare, and write the bank's tensors and what they are."""
    checks: list[Check] = []
    for name, (pixels, tuner, expected) in tests.items():
        missing = expected.new_full((len(expected), bank.num_classes - expected.shape[1]), MASKED)
        inputs = {"images": pixels, "tuner": tuner}
        checks += compare(name, _of(run, inputs, bank=packed), torch.cat([expected, missing], dim=1))
    check_parity(checks, form)
    (partial / TENSORS).write_bytes(save(dict(packed)))
    tuners = [
        {
            "name": name,
            "labels": bundle.manifest.class_names,
            "method": bundle.manifest.method,
            "trial_id": bundle.manifest.trial_id,
        }
        for name, bundle in bundles.items()
    ]
    _write_json(partial / BANK, {"schema_version": SCHEMA_VERSION, "bank": asdict(bank), "tuners": tuners})
    for name, bundle in bundles.items():
        (partial / f"{name}.{MANIFEST}").write_bytes(bundle.manifest.as_bytes())
    return checks


def _read_bank(folder: Path) -> Bank:
    if not (folder / BANK).is_file():
        raise ConfigError(f"{folder} holds no {BANK}; allowed: a folder that --to onnx-bank or pt2-bank made")
    values = parse_json(read_file(folder / BANK, MAX_BANK_BYTES), str(folder / BANK))
    if values.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
            f"{folder / BANK} has schema version {str(values.get('schema_version'))[:20]}, this package reads "
            f"{SCHEMA_VERSION}; export the graph again"
        )
    return read_as(Bank, values.get("bank"), BANK)


def _members(bundles: Mapping[str, Bundle], weights: str | None) -> tuple[Backbone, dict[str, Member]]:
    """All bundles on one backbone; one of another backbone is an error that names both."""
    backbone = next(iter(bundles.values())).load_backbone(weights)
    members = {name: bundle.member(backbone) for name, bundle in bundles.items()}
    for member in members.values():
        member.parts.eval()
    return backbone, members


def _tests(bundle: Bundle, images: Path | None, preprocessing: Preprocessing) -> dict[str, Tensor]:
    """Images to compare on: more than one of each kind, so that a batch of several is one of different ones."""
    probe = enlarged(bundle.probe.images, preprocessing.img_size)
    tests = {"probe images": probe[torch.arange(max(4, len(probe))) % len(probe)]}
    return tests if images is None else {**tests, images.resolve().name: _read(images, preprocessing)}


def _read(folder: Path, preprocessing: Preprocessing) -> Tensor:
    """Images of a folder, evenly chosen, as the graph takes them."""
    files = image_files(folder)
    chosen = files[:: -(-len(files) // MAX_IMAGES)]
    prepared = eval_transform(preprocessing)
    try:
        return torch.stack([prepared(file.read_bytes()) for file in chosen])
    except OSError as error:
        raise DataError(f"an image in {str(folder)!r} cannot be read ({error}); give a folder of images") from error


def _scores(backbone: Backbone, member: Member, pixels: Tensor) -> Tensor:
    return Cohort(backbone, [member], precision="fp32").scores(pixels)[0]


def _of(run: Run, rows: Mapping[str, Tensor], **whole: Any) -> Any:
    """Run some of the rows."""
    return lambda some: run({**{name: value[some] for name, value in rows.items()}, **whole})


def _write_common(partial: Path, form: str, p: Preprocessing, checks: Sequence[Check]) -> None:
    _write_json(partial / PARITY, report(checks, _versions(form)))
    steps = [
        "decode, apply the EXIF orientation, convert to RGB",
        f"resize the shorter side to {p.resize} px, the longer one in proportion, rounded down ({p.interpolation}, "
        "antialiased)",
        f"cut out the centre square of {p.img_size} px",
        f"stack as uint8, channels first: (batch, 3, {p.img_size}, {p.img_size}), name `images`",
    ]
    inside = ["divide by 255", "subtract mean", "divide by std"]
    _write_json(partial / PREPROCESSING, {**p.as_dict(), "steps": steps, "inside_the_graph": inside})


def _versions(form: str) -> dict[str, str]:
    return {name: version(name) for name in PACKAGES[form]}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _agreement(checks: Sequence[Check]) -> str:
    worst = max(check.relative_difference for check in checks)
    rows = sum(check.num_rows for check in checks)
    return (
        f"logits differ from the bundle's by at most {worst:.1e} of the largest, over {rows} rows in {len(checks)} runs"
    )
