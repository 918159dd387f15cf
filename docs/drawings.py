"""Where a method attaches, as small SVG drawings: the frozen backbone in grey, what is trained in orange."""

from collections.abc import Iterable
from itertools import pairwise

FROZEN, TRAINED, INK = "#e8e8e8", "#ffb347", "#333333"
TRAINED_STYLE = f'fill="{TRAINED}" stroke="{INK}"'
WIDTH, HEIGHT = 420, 330
SPINE, TUNER = 150, 300  # x of the backbone's boxes and of the tuners'
ROWS = {"head": 30, "norm": 75, "mlp": 135, "attn": 215, "stem": 290}
NAMES = {"head": "head", "norm": "norm, pool", "mlp": "LN + FFN", "attn": "LN + MHA", "stem": "embedding"}


MARKER = (
    '  <defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
    f'<path d="M0,0 L6,3 L0,6 z" fill="{INK}"/></marker></defs>\n  <rect width="100%" height="100%" fill="white"/>'
)


def drawing(role: str, ops: Iterable[str], reads_op: bool) -> str:
    """The SVG of one block, with the tuner where it stands.

    Args:
        role: the tuner's role, as its row says.
        ops: the op kinds at which it stands; none draws it at attn and mlp.
        reads_op: whether a tuner beside an op reads what the op gave, not what it got.
    """
    kinds = set(ops) or {"attn", "mlp"}
    body = "\n".join(f"  {part}" for part in [*_backbone(role, kinds), *_tuner(role, kinds, reads_op), *_legend()])
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return f"{head}\n{MARKER}\n{body}\n</svg>\n"


def _backbone(role: str, kinds: set[str]) -> list[str]:
    trained = {"head"} | ({"attn", "mlp", "stem", "norm"} if role == "weights" else set())
    replaced = kinds if role == "instead" else set()
    order = ("stem", "attn", "mlp", "norm", "head")
    parts = [_path(f"M{SPINE},{ROWS[a] - 15} V{ROWS[b] + 18}") for a, b in pairwise(order)]
    for kind in ("attn", "mlp"):
        y = ROWS[kind]
        parts += [_path(f"M{SPINE},{y + 30} H70 V{y - 26} H{SPINE - 8}"), _plus(y - 26)]
    return parts + [
        _box(SPINE, y, "U" if name in replaced else NAMES[name], name in trained | replaced) for name, y in ROWS.items()
    ]


def _tuner(role: str, kinds: set[str], reads_op: bool) -> list[str]:
    if role == "beside":
        return [part for kind in ("attn", "mlp", "block") if kind in kinds for part in _beside(kind, reads_op)]
    if role == "inside":
        return [
            f'<circle cx="{SPINE + 44}" cy="{y}" r="8" {TRAINED_STYLE}/>' for kind, y in ROWS.items() if kind in kinds
        ]
    if role == "tokens":
        places = range(TUNER - 40, TUNER + 48, 22)
        squares = [f'<rect x="{x}" y="244" width="16" height="16" {TRAINED_STYLE}/>' for x in places]
        return [*squares, _path(f"M{TUNER - 46},252 H{SPINE + 8}")]
    return _side() if role == "side" else []


def _side() -> list[str]:
    """A column beside the backbone that reads what leaves each operation."""
    parts = [_box(TUNER, ROWS[kind], "side", True) for kind in ("attn", "mlp")]
    parts += [_path(f"M{SPINE},{ROWS[kind] - 34} L{TUNER - 56},{ROWS[kind] - 6}") for kind in ("attn", "mlp")]
    parts.append(_path(f"M{TUNER},{ROWS['attn'] - 15} V{ROWS['mlp'] + 18}"))
    return [*parts, _path(f"M{TUNER},{ROWS['mlp'] - 15} V{ROWS['head']} H{SPINE + 58}")]


def _beside(kind: str, reads_op: bool) -> list[str]:
    """A tuner's box right of its op, from the op's input or output to the sum behind it."""
    x, y, bottom, top = TUNER, ROWS.get(kind, 0), ROWS.get(kind, 0) + 26, ROWS.get(kind, 0) - 26
    if kind == "block":
        x, y = TUNER + 80, (ROWS["attn"] + ROWS["mlp"]) // 2
        bottom, top = ROWS["attn"] + 34, ROWS["mlp"] - 34
    enter = f"M{SPINE},{y - 18} H{x - 50} V{y} H{x - 28}" if reads_op else f"M{SPINE},{bottom} H{x} V{y + 18}"
    return [_path(enter), _box(x, y, "U", True, 50), _path(f"M{x},{y - 15} V{top} H{SPINE + 10}")]


def _legend() -> list[str]:
    return [
        f'<rect x="12" y="12" width="14" height="14" {TRAINED_STYLE}/><text x="32" y="24">trained</text>',
        f'<rect x="12" y="34" width="14" height="14" fill="{FROZEN}" stroke="{INK}"/><text x="32" y="46">frozen</text>',
    ]


def _box(x: int, y: int, text: str, trained: bool, width: int = 108) -> str:
    style = TRAINED_STYLE if trained else f'fill="{FROZEN}" stroke="{INK}"'
    frame = f'<rect x="{x - width // 2}" y="{y - 15}" width="{width}" height="30" rx="4" {style}/>'
    return f'{frame}<text x="{x}" y="{y + 5}" text-anchor="middle">{text}</text>'


def _plus(y: int) -> str:
    circle = f'<circle cx="{SPINE}" cy="{y}" r="8" fill="white" stroke="{INK}"/>'
    return f'{circle}<text x="{SPINE}" y="{y + 5}" text-anchor="middle">+</text>'


def _path(d: str) -> str:
    return f'<path d="{d}" fill="none" stroke="{INK}" marker-end="url(#tip)"/>'
