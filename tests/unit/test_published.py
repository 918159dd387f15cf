"""Published numbers: what is there, and that nothing is ranked with what it cannot be compared with."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from pipelines.results import compare as pages
from pipelines.results.leaderboard import Row, rows
from pipelines.results.published import BEST, Beside, Comparison, Entry, checkpoint_of, compare, compare_means
from pipelines.results.published_page import plain, published_markdown, published_table
from pipelines.results.published_picture import contents, draw_published, picture_name, published_figure
from pipelines.tracking.records import RunRecord
from search_spaces.published import DATASETS, FGVC, FGVC_SETS, UNKNOWN, load_published
from search_spaces.published.loader import HERE, check_source
from tests.tools import adapter, train, trial_of
from utuning.data.fgvc.table import READERS
from utuning.data.protocols import AS_GIVEN, PROTOCOLS
from utuning.data.shrinking import stored_as
from utuning.errors import SpaceError

ORIG = "vit_base_patch16_224.orig_in21k"
PUBLISHED = load_published()


def one(method: str, dataset: str, source: str) -> float:
    (found,) = (r.accuracy for r in PUBLISHED if (r.method, r.dataset) == (method, dataset) and source in r.source)
    return found


def test_all_files_are_read_and_every_set_has_numbers() -> None:
    assert len({row.source for row in PUBLISHED}) >= len(list(HERE.glob("*.yaml"))) >= 6
    assert {row.dataset for row in PUBLISHED} == {*DATASETS, FGVC}
    assert set(DATASETS) == set(READERS)
    assert all(row.protocol in {*PROTOCOLS, "test-selected", UNKNOWN} for row in PUBLISHED)


def test_u_tunings_dogs_and_cars_are_its_papers_not_the_swapped_ones() -> None:
    source = "2303.00690"
    utuning = {name: one("U-Tuning", name, source) for name in ("stanford_dogs", "stanford_cars", FGVC)}
    assert utuning == {"stanford_dogs": 0.9207, "stanford_cars": 0.8414, "fgvc": 0.8998}
    assert not [row for row in PUBLISHED if "V-PETL" in row.source and row.method in ("U-Tuning", "Prefix")]


def test_what_is_unknown_stays_unknown() -> None:
    for row in PUBLISHED:
        if row.source.startswith("U-Tuning"):
            assert (row.checkpoint, row.protocol) == (UNKNOWN, UNKNOWN)


def source(**changes: Any) -> dict[str, Any]:
    table = {
        "table": "1", "datasets": [*FGVC_SETS], "checkpoint": ORIG, "protocol": "vpt", "params": "with head",
        "rows": [{"method": "m", "accuracy": [80.0, 81.0, 82.0, 83.0, 84.0], "mean": 82.0}],
    }  # fmt: skip
    return {"source": "a paper", "tables": [{**table, **changes}]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": "mine"}, "tables.0.protocol"),
        ({"datasets": ["cub"]}, "tables.0.datasets: 'cub'"),
        ({"rows": [{"method": "m", "accuracy": [80.0]}]}, "1 numbers for 5 data sets"),
        ({"rows": [{"method": "m", "accuracy": [0.8] * 5}]}, "per cent"),
        ({"rows": [{"method": "m", "accuracy": [80.0] * 5, "mean": 81.0}]}, "is a column in another place"),
        ({"rows": [{"method": "m", "acuracy": [80.0] * 5}]}, "did you mean 'accuracy'"),
        ({"rows": []}, "no number in them"),
    ],
)
def test_published_nonsense_is_named(changes: dict[str, Any], says: str) -> None:
    assert check_source(source(), "sound.yaml")[-1].dataset == FGVC
    with pytest.raises(SpaceError) as error:
        check_source(source(**changes), "wrong.yaml")
    assert says in str(error.value)


def run(dataset: str, test: float, *, width: int = 8, **changes: Any) -> RunRecord:
    facts = {
        "backbone": ORIG, "protocol": "vpt", "weights": "timm", "count": None, "val_from": AS_GIVEN, "subset": False,
        "data_images": AS_GIVEN,
        **changes,
    }  # fmt: skip
    trial = trial_of(
        adapter("attn", bottleneck_dim=width), dataset=dataset, backbone=facts["backbone"], protocol=facts["protocol"],
        train=train(),
    )  # fmt: skip
    count = facts["count"] or READERS[dataset].expected.counts["test"] if dataset in READERS else 1
    metrics = {"val/accuracy": test, "test/accuracy": test, "test/count": float(count), "trainable_params": 1e5}
    return RunRecord(
        run_id=f"{dataset}{width}{test}", search_id="s", outcome="completed", trial=trial, metrics=metrics,
        start_time=0, weights=facts["weights"], val_from=facts["val_from"], subset=facts["subset"],
        data_images=facts["data_images"],
    )  # fmt: skip


def ours(comparison: Comparison) -> list[Entry]:
    return [entry for entry in comparison.entries if entry.ours]


def test_ours_ranks_among_rows_of_its_checkpoint_and_protocol_alone() -> None:
    (mine,) = ours(made := compare("cub200", rows([run("cub200", 0.884)])))
    group = dict(made.groups)[ORIG, "vpt"]
    assert [entry.place for entry in group] == [1, 2, 2, 4, 5, 6, 7]
    assert mine.place == 2, "VPT-deep has 88.5, BitFit 88.4 as ours"
    better = [entry for entry in made.entries if entry.accuracy > mine.accuracy and entry.group != mine.group]
    assert better, "U-Tuning's 89.16 stands beside, in no ranking"
    assert all(entry.place is None for entry in better if UNKNOWN in entry.group)


STRAYS: list[dict[str, Any]] = [
    {"weights": "none"}, {"weights": ""}, {"weights": "vit.safetensors"}, {"protocol": "official"}, {"count": 9},
    {"subset": True}, {"data_images": stored_as(256)}, {"val_from": ""},
    {"val_from": "0.2 of train, stratified, seed 0"},
]  # fmt: skip


@pytest.mark.parametrize("changes", STRAYS)
def test_other_weights_protocols_and_part_of_a_test_split_do_not_rank_with_vpts(changes: dict[str, Any]) -> None:
    (mine,) = ours(made := compare("cub200", rows([run("cub200", 0.99, **changes)])))
    theirs = {entry for entry in made.entries if not entry.ours}
    assert mine.place is None or mine.group not in {entry.group for entry in theirs}
    assert theirs == set(compare("cub200", []).entries), "their places are as if ours were not there"


ENTRIES = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from(["timm", "none", ""]), st.booleans()))


@given(ENTRIES)
def test_a_place_counts_the_better_ones_of_its_group_and_nothing_else(drawn: list[tuple[float, str, bool]]) -> None:
    records = [
        run("flowers102", test, width=at + 1, weights=weights, protocol="vpt" if vpt else "official")
        for at, (test, weights, vpt) in enumerate(drawn)
    ]
    made = compare("flowers102", rows(records))
    assert len(ours(made)) == len(records)
    for entry in made.entries:
        better = [e for e in made.entries if e.group == entry.group and e.comparable and e.accuracy > entry.accuracy]
        assert entry.place == (1 + len(better) if entry.comparable else None)
    groups = [group for group, _ in made.groups]
    assert len(groups) == len(set(groups)), "a group stands together"


def five(**changes: Any) -> list[Row]:
    return [row for at, name in enumerate(FGVC_SETS) for row in rows([run(name, 0.80 + 0.01 * at, **changes)])]


def test_the_mean_is_over_all_five_sets_or_not_at_all() -> None:
    made = compare_means(five())
    assert made is not None
    best, adapters = ours(made)
    assert (best.method, adapters.method) == (BEST, f"p_adapter, {BEST}")
    assert best.accuracy == adapters.accuracy == pytest.approx(0.82)
    assert best.place is not None
    assert compare_means(five()[1:]) is None


def test_the_mean_mixes_no_checkpoints() -> None:
    mixed = [replace(row, weights="none" if row.dataset == "nabirds" else "timm") for row in five()]
    assert compare_means(mixed) is None


def test_the_mean_takes_what_was_best_on_val() -> None:
    more = [replace(row, val=0.1, test=0.99, config_id="lucky") for row in five()]
    made = compare_means([*five(), *more])
    assert made is not None and ours(made)[0].accuracy == pytest.approx(0.82)


def test_checkpoints_have_names_that_do_not_lie() -> None:
    (row,) = rows([run("cub200", 0.5)])
    names = [checkpoint_of(replace(row, weights=weights)) for weights in ("timm", "none", "", "file.safetensors")]
    assert names[0] == ORIG and len(set(names)) == 4


def read(name: str) -> Sequence[Row]:
    return {"mine": rows([run("beetles", 0.5)])}.get(name) or [row for row in five() if row.dataset == name]


def test_a_page_shows_its_set_the_mean_and_nothing_where_nothing_is_published() -> None:
    beside = Beside(lambda: [*FGVC_SETS, "mine"], read)
    assert beside.comparisons("mine") == []
    assert [made.dataset for made in beside.comparisons("stanford_cars")] == ["stanford_cars", FGVC]


def test_pages_say_what_is_not_ranked_and_why() -> None:
    made = compare("stanford_cars", rows([run("stanford_cars", 0.9, count=9)]))
    text = published_markdown([made])
    assert "tested on 9 images, the official test has 8,041" in text
    assert "checkpoint unknown; protocol unknown; not ranked" in text
    assert "no adapter was measured" in text
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(published_table(made))
    assert "U-Tuning" in shown.get() and "84.14" in shown.get()
    (values,) = plain([made])
    assert {entry["source"] for entry in values["entries"]} > {"this store"}


LONG = "attn+mlp+block@0,1,2,3,4,5 r16 + p_prefix block@all t10 lr1.23e-3"


def strays(dataset: str) -> list[Row]:
    """Rows of many kinds: with a long name and an interval, of other protocols and weights, not comparable."""
    kinds = [{}, {"protocol": "official"}, {"weights": "none"}, {"count": 9}]
    made = rows([run(dataset, 0.884 - at / 1000, width=at + 1, **kind) for at, kind in enumerate(kinds)])
    return [replace(row, label=LONG if at % 2 else row.label, test_ci=0.004 * at) for at, row in enumerate(made)]


@pytest.mark.parametrize("dataset", [*DATASETS, FGVC])
def test_no_text_of_a_picture_lies_on_another_or_outside(dataset: str) -> None:
    made = compare_means(five()) if dataset == FGVC else compare(dataset, strays(dataset))
    assert made is not None
    figure = published_figure(made)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    assert len(texts) > 3 * len(made.entries)
    for (one, a), (other, b) in combinations(zip(texts, boxes, strict=True), 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one.get_text(), other.get_text())
    page, plot = figure.bbox, figure.axes[0].get_window_extent()
    labels = {id(text) for text in figure.axes[0].texts if not text.get_text().startswith("checkpoint ")}
    beside = [box for text, box in zip(texts, boxes, strict=True) if id(text) in labels]
    assert beside and all(box.x1 < plot.x0 or box.x0 > plot.x1 for box in beside), "no text covers a number's mark"
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes)
    said = " ".join(text.get_text() for text in texts)
    assert said.count("%") > 2 and all(f"{100 * entry.accuracy:.2f}" in said for entry in made.entries)
    plain_text = " ".join(said.split())
    assert all(note in plain_text for note in made.notes), "notes are there in full"


def test_a_page_has_a_picture_for_each_comparison(tmp_path: Path) -> None:
    mine = rows([run("cub200", 0.884), run("cub200", 0.88, width=4)])
    beside = [compare("cub200", mine), compare(FGVC, [])]
    files = pages.write(mine, "cub200", tmp_path, beside)
    assert [file.name for file in files][3:] == [picture_name(made) for made in beside]
    text = (tmp_path / "leaderboard.md").read_text()
    for made, file in zip(beside, files[3:], strict=True):
        assert f"]({file.name})" in text
        with Image.open(file) as picture:
            assert picture.width == 2120 and picture.info["Description"] == contents(made)


def test_what_a_picture_says_of_itself_changes_with_its_numbers(tmp_path: Path) -> None:
    old, new = compare("cub200", []), compare("cub200", rows([run("cub200", 0.884)]))
    draw_published(old, tmp_path / "old.png")
    with Image.open(tmp_path / "old.png") as picture:
        assert picture.info["Description"] == contents(old) != contents(new)
