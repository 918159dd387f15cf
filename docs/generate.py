"""Writes what follows from the code: docs/capabilities.md, a page with a drawing for each method, and a picture.

    python docs/generate.py [--check]

With --check nothing is written: it fails where a committed page says something else than the code.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import torch
from drawings import drawing
from PIL import Image

from pipelines.results.published import compare
from pipelines.results.published_picture import contents, draw_published
from search_spaces.published import FGVC
from utuning.backbone import Backbone
from utuning.capabilities import obstacle
from utuning.tuners import TUNERS, settings_of, target_of
from utuning.tuners.rows import TunerRow

DOCS = Path(__file__).parent
RESULTS = DOCS / "results" / "methods" / "demo.json"
ROLES = {
    "beside": "stands beside an op: x' = OP(x) + U(x)",
    "instead": "stands in for an op, made of its frozen projections",
    "inside": "changes the outputs of layers inside an op",
    "tokens": "puts prompt tokens into the stream",
    "side": "a network beside the backbone, over its states",
    "weights": "trains copies of some of the backbone's own weights",
    "head": "a head of its own; the backbone is as it is",
}


@dataclass(frozen=True)
class Specimen:
    """A small member of a family, on which methods are tried."""

    family: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    img_size: int = 32


SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
SPECIMENS = (
    Specimen("ViT", "vit_tiny_patch16_224", SMALL),
    Specimen("DeiT distilled", "deit_tiny_distilled_patch16_224", SMALL),
    Specimen("DINOv2 registers", "vit_small_patch14_reg4_dinov2", SMALL),
    Specimen("EVA-02", "eva02_tiny_patch14_224", SMALL),
    Specimen("DINOv3", "vit_small_patch16_dinov3", SMALL),
    Specimen(
        "Swin",
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
    ),
    Specimen("ConvNeXt", "convnext_tiny", {"dims": (8, 16, 24, 32), "depths": (2, 1, 1, 1)}),
    Specimen("MLP-Mixer", "mixer_s16_224", {"mlp_ratio": (0.125, 0.25)}),
    Specimen("ResNet", "test_resnet", {"layers": (2, 2, 1, 1), "channels": (8, 8, 16, 16)}),
    Specimen("EfficientNet", "tinynet_e"),
)


def capabilities() -> str:
    """The matrix of methods and architectures, and every reason why not."""
    backbones = {specimen.family: load(specimen) for specimen in SPECIMENS}
    reasons: dict[str, list[str]] = {}
    lines = [CAPABILITIES, f"| method | {' | '.join(backbones)} |", f"|---|{':-:|' * len(backbones)}"]
    for method in TUNERS:
        cells = []
        for family, backbone in backbones.items():
            why = obstacle(backbone, method)
            if why is not None:
                reasons.setdefault(_general(why, method), []).append(f"{method} on {family}")
            cells.append("yes" if why is None else f"[{[*reasons].index(_general(why, method)) + 1}]")
        lines.append(f"| [{method}](methods/{method}.md) | {' | '.join(cells)} |")
    lines += ["", "Why not, in the words of the error:", ""]
    lines += [f"{number}. {why} ({', '.join(where)})" for number, (why, where) in enumerate(reasons.items(), 1)]
    return "\n".join([*lines, ""])


def load(specimen: Specimen) -> Backbone:
    """A specimen whose weights are not those of the start, some of which are zeros that would stop gradients."""
    plain = Backbone.load(specimen.name, weights="none", img_size=specimen.img_size, options=specimen.options)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: value + 0.05 * torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in plain.trunk.model.state_dict().items()
    }
    return Backbone.from_config(plain.config, state)


def _general(why: str, method: str) -> str:
    """An error without what it says of one method, family or depth, so that equal reasons are said once."""
    why = why.replace(method, "METHOD")
    why = re.sub(
        r"at depth \d+|block \d+|the family \w+|of this \w+", lambda found: f"{found[0].rsplit(' ', 1)[0]} …", why
    )
    why = re.sub(r"and (attn|mlp|block) at depth", "and OP at depth", why)
    return re.sub(r"(its op kinds are|allowed:|it stands at depths) [\w, \[\]]+", lambda found: f"{found[1]} …", why)


CAPABILITIES = """# What works where

Found by trying, with `python docs/generate.py`: each method is built in its own placement (or at every op where it can
stand) on a small model of each family, takes three steps, and everything that it trains has to move. Anything else is
an error that says why, before any work starts. The tests check that this page is true.
"""


STAND_IN = "**A stand-in**: the formula of what it stands for is not published; this is not that method."


def method_page(row: TunerRow, results: list[dict[str, Any]]) -> str:
    """One method: equation, drawing, settings, source, numbers."""
    about = "" if row.parts else inspect.getdoc(target_of(row)) or ""
    formula, _, _ = about.partition("\n\nArgs:")
    text = [
        f"# {row.title}",
        "",
        f"`method: {row.name}` {ROLES[row.role]}. Source: {row.source}.",
        "",
        *([STAND_IN, ""] * row.stand_in),
        *([_composition(row), ""] if row.parts else []),
        f"![where it attaches]({row.name}.svg)",
        "",
        *(["```text", formula, "```", ""] if formula else []),
        _placement(row),
        "",
        *_settings(row),
        *_numbers(row, results),
    ]
    return "\n".join(text)


def _composition(row: TunerRow) -> str:
    parts = [f"[{part.method}]({part.method}.md) on {'+'.join(part.ops)}" for part in row.parts]
    return f"Composed of {' and '.join(parts)}."


def _placement(row: TunerRow) -> str:
    if row.ops:
        default = f"; `{'+'.join(row.default_ops)}` where a space names none" if row.default_ops else ""
        return f"Op kinds: `{'`, `'.join(row.ops)}`{default}. Depths: `{row.default_depths}` where a space names none."
    if row.role in ("tokens", "side"):
        return f"No op kinds; depths: `{row.default_depths}` where a space names none."
    return "No placement: leave `ops` and `depths` out." if not row.parts else "The parts say where it stands."


def _settings(row: TunerRow) -> Iterator[str]:
    settings = settings_of(row.name)
    if settings:
        yield from ("| setting | type | default |", "|---|---|---|")
        for name, setting in settings.items():
            yield f"| `{name}` | {_kind(setting.annotation)} | `{setting.default!r}` |"
        yield ""
    identity = "is" if row.identity_at_init else "is not"
    yield f"With these defaults an untrained one {identity} the identity on the backbone's features."
    yield ""


def _kind(annotation: Any) -> str:
    """A type as a reader of YAML would say it."""
    if get_origin(annotation) is Annotated:
        kind, *bounds = get_args(annotation)
        return f"{_kind(kind)}, at least {bounds[0].minimum:g}"
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    text = inspect.formatannotation(annotation)
    return {"int": "whole number", "float": "number", "bool": "`true` or `false`", "int | None": "whole number or null",
            "tuple[str, ...]": "list of names"}.get(text, text)  # fmt: skip


def _numbers(row: TunerRow, results: list[dict[str, Any]]) -> Iterator[str]:
    mine = [result for result in results if row.name in result["methods"]]
    if not mine:
        return
    yield "On the drawn demo data ([protocol and all rows](../results/methods/demo.md)):"
    yield ""
    yield "| configuration | trainable, without head | test % (95 % CI, 3 seeds) | step time to linear | kept MB |"
    yield "|---|---:|---:|---:|---:|"
    for result in mine:
        test = f"{100 * result['test_mean']:.1f} ± {100 * result['test_ci']:.1f}"
        step = f"{result['step_time_to_linear']:.2f}x | {result['kept_mb']:.1f}"
        yield f"| {result['title']}: {result['configuration']} | {result['tuner_params']:,} | {test} | {step} |"
    yield ""


def method_drawing(row: TunerRow) -> str:
    """The picture of where a method attaches."""
    if row.parts:
        return drawing("beside", [op for part in row.parts for op in part.ops], reads_op=False)
    return drawing(row.role, row.default_ops or row.ops, reads_op=row.target.endswith(":SequentialAdapter"))


def index() -> str:
    """The list of all methods."""
    lines = ["# Methods", "", "Generated by `python docs/generate.py` from the table of tuners.", ""]
    lines += ["| method | | role | source |", "|---|---|---|---|"]
    for row in TUNERS.values():
        title = f"{row.title} **(stand-in)**" if row.stand_in else row.title
        lines.append(f"| [{row.name}]({row.name}.md) | {title} | {row.role} | {row.source} |")
    return "\n".join([*lines, "", (DOCS / "methods_left_out.md").read_text()])


def pages() -> dict[Path, str]:
    """Every generated page."""
    results = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    methods = DOCS / "methods"
    found = {DOCS / "capabilities.md": capabilities(), methods / "README.md": index()}
    for row in TUNERS.values():
        found[methods / f"{row.name}.md"] = method_page(row, results)
        found[methods / f"{row.name}.svg"] = method_drawing(row)
    return found


def picture_is_true(path: Path, description: str) -> bool:
    """Whether a picture says of itself that it shows this; its pixels may differ with fonts and drawing libraries."""
    if not path.exists():
        return False
    with Image.open(path) as picture:
        return picture.info.get("Description") == description


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    torch.set_num_threads(1)  # the models are tiny
    wrong = []
    for path, text in pages().items():
        if check and (not path.exists() or path.read_text() != text):
            wrong.append(str(path.relative_to(DOCS.parent)))
        elif not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    published, picture = compare(FGVC, []), DOCS / "pictures" / "published_fgvc.png"
    if check and not picture_is_true(picture, contents(published)):
        wrong.append(str(picture.relative_to(DOCS.parent)))
    elif not check:
        draw_published(published, picture)
    if wrong:
        print(f"out of date: {', '.join(wrong)}; run `python docs/generate.py`")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
