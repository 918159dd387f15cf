"""Published numbers: what is there, and that nothing is ranked with what it cannot be compared with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipelines.leaderboard import Row, rows
from pipelines.published import BEST, Beside, Comparison, Entry, checkpoint_of, compare, compare_means
from pipelines.published_page import plain, published_markdown, published_table
from pipelines.run_records import RunRecord
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
