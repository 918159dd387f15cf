"""Cached states: what a loader reads back trains members exactly as the images do."""

import io
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.tools import adapter, tiny_backbone, train
from tests.unit.test_methods import TABLE
from utuning.batch import Batch
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.data.loader import Loader
from utuning.data.parquet import image_schema
from utuning.member import Member
from utuning.prefix import CACHE_DTYPES, Prefix, Useful, state_shapes
from utuning.prefix_cache import PrefixCache
from utuning.shared_rows import SharedRows
from utuning.streams import run_shared, shared_rows, states_read

NUM_IMAGES, BATCH_SIZE, NUM_VIEWS, NUM_EPOCHS = 13, 4, 2, 4
FEATURES = 5  # four blocks, what leaves the last one, and the features
PLENTY = 2**40

MEMBERS = {
    "linear": (),
    "last adapter": (adapter("attn", "mlp", depths="last:1"),),
    "two last adapters": (adapter("attn", "block", depths="last:2"),),
    "all adapters": (adapter("mlp"),),
    "lora": (TunerConfig(method="lora", depths="last:2"),),
    "prompts": (TunerConfig(method="vpt_deep"),),
    "late prompts": (TunerConfig(method="vpt_deep", depths="last:2"),),
    "unipt": (TunerConfig(method="unipt"),),
    "ladder": (TunerConfig(method="ladder"),),
    "bypass": (TunerConfig(method="bypass"),),
    "full": (TunerConfig(method="full"),),
    "last block": (TunerConfig(method="partial"),),
    "ssf": (TunerConfig(method="ssf"),),
    "ssf at the norm": (TunerConfig(method="ssf", ops=("norm",)),),
    "dual": (TunerConfig(method="p_prefix", ops=("attn",), depths=(1, 3)), adapter("mlp", depths=(3,))),
}
READS_NO_IMAGES = [name for name in MEMBERS if name not in ("full", "ssf")]


@cache
def backbone():  # type: ignore[no-untyped-def]
    return tiny_backbone()


@cache
def table() -> pa.Table:
    rows = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(NUM_IMAGES)]}
    labels = {"label": [n % 3 for n in range(NUM_IMAGES)]}
    return pa.Table.from_pydict({**rows, **labels}, schema=image_schema(["a", "b", "c"]))


def png(seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def loader(views: int | None = NUM_VIEWS, **options: object) -> Loader:
    return Loader(table(), backbone().preprocessing, global_batch_size=BATCH_SIZE, views=views, **options)  # type: ignore[arg-type]


def member(name: str, **config: object) -> Member:
    of_four = {"lr": 1e-3, "epochs": NUM_EPOCHS, "label_smoothing": 0.1, **config}
    return Member(backbone(), num_classes=3, config=train(**of_four), tuners=MEMBERS[name], steps_per_epoch=4)


def members(*names: str) -> list[Member]:
    return [member(name) for name in names]


def prefix(folder: Path, dtype: str = "fp32", budget: int = PLENTY) -> Prefix:
    return Prefix(
        PrefixCache(folder, budget),
        state_shapes(backbone()),
        num_rows=NUM_IMAGES,
        num_views=NUM_VIEWS,
        dtype=CACHE_DTYPES[dtype],
        facts={"backbone": backbone().fingerprint, "seed": 0, "recipe": "vpt"},
    )


def useful(folder: Path, *names: str, dtype: str = "fp32") -> Useful:
    found = prefix(folder, dtype).useful(backbone(), members(*names), PLENTY)
    assert found is not None
    return found


def trained(who: Sequence[Member], states: Useful | None, epochs: Sequence[int] = range(NUM_EPOCHS)) -> Tensor:
    """Train through some epochs; returns each epoch's losses, (epochs, K)."""
    cohort, batches = Cohort(backbone(), who), loader()
    return torch.tensor([cohort.train_epoch(batches.epoch(epoch, states)) for epoch in epochs])


def assert_same(some: Sequence[Member], others: Sequence[Member]) -> None:
    for mine, theirs in zip(some, others, strict=True):
        torch.testing.assert_close(mine.tensors(), theirs.tensors(), rtol=0, atol=1e-5)


def fill(states: Useful, *names: str) -> None:
    """One pass over every view."""
    trained(members(*names), states, range(NUM_VIEWS))


@cache
def seen(view: int) -> Mapping[int, Tensor]:
    """Every state of every image in a view, from the images themselves."""
    batches = list(loader().epoch(view))
    images = torch.cat([each.pixels for each in batches])
    order = torch.cat([each.index for each in batches])[:NUM_IMAGES].argsort()
    return every_state(images[:NUM_IMAGES][order])


def every_state(images_B3HW: Tensor) -> Mapping[int, Tensor]:
    trunk = backbone().trunk
    shared = SharedRows(trunk, backbone().normalise(images_B3HW), wanted=range(len(trunk.blocks) + 2))
    shared.features()
    return shared.found


def by_image(batches: Iterator[Batch]) -> dict[int, Tensor]:
    return {
        row: image for each in batches for row, image in zip(each.index.tolist(), each.pixels, strict=True) if row >= 0
    }


def same_images(some: Iterator[Batch], others: Iterator[Batch]) -> list[bool]:
    mine, theirs = by_image(some), by_image(others)
    assert mine.keys() == theirs.keys() == set(range(NUM_IMAGES))
    return [torch.equal(mine[row], theirs[row]) for row in mine]


# Training


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_learns_from_states_what_it_learns_from_images(name: str, tmp_path: Path) -> None:
    plain, cached = members(name), members(name)
    states = prefix(tmp_path).useful(backbone(), cached, PLENTY)
    assert (states is None) == (name not in READS_NO_IMAGES)
    torch.testing.assert_close(trained(cached, states), trained(plain, None), rtol=0, atol=1e-6)
    assert_same(cached, plain)


def test_all_members_together_learn_from_states_what_they_learn_from_images(tmp_path: Path) -> None:
    plain, cached = members(*MEMBERS), members(*MEMBERS)
    states = useful(tmp_path, *MEMBERS)
    assert states.images and states.depths == list(range(FEATURES + 1))
    torch.testing.assert_close(trained(cached, states), trained(plain, None), rtol=0, atol=1e-6)
    assert_same(cached, plain)


def test_with_a_part_of_the_states_they_learn_the_same(tmp_path: Path) -> None:
    plain, cached = members(*MEMBERS), members(*MEMBERS)
    everything = sum(np.prod(shape) for shape in state_shapes(backbone()).values()) * 4 * NUM_IMAGES * NUM_VIEWS
    states = prefix(tmp_path).useful(backbone(), cached, int(0.5 * everything))
    assert states is not None and 1 < len(states.depths) < FEATURES + 1
    torch.testing.assert_close(trained(cached, states), trained(plain, None), rtol=0, atol=1e-6)
    assert_same(cached, plain)


def test_evaluation_scores_states_as_it_scores_images(tmp_path: Path) -> None:
    who, states = members(*READS_NO_IMAGES), useful(tmp_path, *READS_NO_IMAGES)
    cohort, batches = Cohort(backbone(), who), loader(train=False)
    plain = cohort.evaluate(batches.epoch(0))
    for _ in range(2):
        for score, expected in zip(cohort.evaluate(batches.epoch(0, states)), plain, strict=True):
            assert score.count == expected.count == NUM_IMAGES and score.accuracy == expected.accuracy
            assert score.loss == pytest.approx(expected.loss, abs=1e-6)
    assert all(batch.images is None for batch in batches.epoch(0, states))


def test_members_in_groups_fill_and_read_the_same_states(tmp_path: Path) -> None:
    cached, plain = members(*READS_NO_IMAGES), members(*READS_NO_IMAGES)
    states = useful(tmp_path, *READS_NO_IMAGES)
    cohort = Cohort(backbone(), cached, num_groups=len(cached))
    losses = torch.tensor([cohort.train_epoch(loader().epoch(epoch, states)) for epoch in range(NUM_EPOCHS)])
    assert not cohort.failures
    assert all(batch.images is None for epoch in range(NUM_VIEWS) for batch in loader().epoch(epoch, states))
    torch.testing.assert_close(losses, trained(plain, None), rtol=0, atol=1e-6)


# What is decoded


def refuse(self: Loader, row: int) -> Tensor:
    raise AssertionError(f"image {row} is decoded")


@pytest.mark.parametrize("names", [*([name] for name in READS_NO_IMAGES), READS_NO_IMAGES])
def test_after_one_pass_over_a_view_no_image_is_decoded(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = useful(tmp_path, *names)
    first = list(loader().epoch(0, states))
    assert all(each.images is not None and not each.states and each.wanted == states.depths for each in first)
    fill(states, *names)
    monkeypatch.setattr(Loader, "_decode", refuse)
    for epoch in range(NUM_VIEWS, 2 * NUM_VIEWS):
        batches = list(loader().epoch(epoch, states))
        assert all(each.images is None and not each.wanted for each in batches)
        assert all(sorted(each.states) == list(states.depths) for each in batches)
    assert trained(members(*names), states).isfinite().all()


def test_who_reads_below_the_states_gets_the_images_beside_them(tmp_path: Path) -> None:
    names = ("linear", "full")
    states = useful(tmp_path, *names)
    fill(states, *names)
    for batch in loader().epoch(0, states):
        assert batch.images is not None and list(batch.states) == [FEATURES]


def test_a_second_prefix_over_the_same_folder_starts_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("linear", "ladder")
    fill(useful(tmp_path, *names), *names)
    plain = trained(members(*names), None)
    monkeypatch.setattr(Loader, "_decode", refuse)
    torch.testing.assert_close(trained(members(*names), useful(tmp_path, *names)), plain, rtol=0, atol=1e-6)


def test_other_facts_or_another_dtype_start_cold(tmp_path: Path) -> None:
    fill(useful(tmp_path, "linear"), "linear")
    rows = torch.arange(NUM_IMAGES)
    assert useful(tmp_path, "linear").read(rows, 0) is not None
    assert useful(tmp_path, "linear", dtype="fp16").read(rows, 0) is None
    other = Prefix(
        PrefixCache(tmp_path, PLENTY),
        state_shapes(backbone()),
        num_rows=NUM_IMAGES,
        num_views=NUM_VIEWS,
        dtype=torch.float32,
        facts={"backbone": backbone().fingerprint, "seed": 1, "recipe": "vpt"},
    )
    assert other.read(rows, [FEATURES], 0) is None


def test_without_room_on_the_disk_they_learn_the_same(tmp_path: Path) -> None:
    plain, cached = members("linear", "last adapter"), members("linear", "last adapter")
    states = prefix(tmp_path, budget=10_000).useful(backbone(), cached, PLENTY)
    torch.testing.assert_close(trained(cached, states), trained(plain, None), rtol=0, atol=1e-6)


# What is stored


def test_what_is_kept_is_the_state_of_the_image_in_its_view(tmp_path: Path) -> None:
    names = ("linear", "ladder")
    states = useful(tmp_path, *names)
    fill(states, *names)
    rows = torch.arange(NUM_IMAGES)
    for view in range(NUM_VIEWS):
        kept = states.read(rows, view)
        assert kept is not None
        for depth, state in kept.items():
            torch.testing.assert_close(state, seen(view)[depth], rtol=0, atol=1e-5)


def test_padding_is_not_kept(tmp_path: Path) -> None:
    states = useful(tmp_path, "linear", "last adapter")
    *_, last = loader().epoch(0, states)
    Cohort(backbone(), members("linear", "last adapter")).step(last)
    real = last.index[last.weight > 0]
    assert len(real) == NUM_IMAGES % BATCH_SIZE and (last.index[len(real) :] == -1).all()
    kept = [row for row in range(NUM_IMAGES) if states.read(torch.tensor([row]), 0) is not None]
    assert kept == sorted(real.tolist())


def test_padding_has_states_of_zeros(tmp_path: Path) -> None:
    states = useful(tmp_path, "linear", "last adapter")
    fill(states, "linear", "last adapter")
    *_, last = loader().epoch(NUM_VIEWS, states)
    assert {len(state) for state in last.states.values()} == {BATCH_SIZE}
    assert not any(state[last.weight == 0].any() for state in last.states.values())


def test_a_worker_whose_batch_is_all_padding_needs_no_images_either(tmp_path: Path) -> None:
    states = useful(tmp_path, "linear")
    fill(states, "linear")
    *_, last = loader(worker=1, num_workers=2).epoch(0, states)
    assert last.images is None and last.index.tolist() == [-1, -1]
    assert last.states[FEATURES].shape == (2, backbone().num_features)


@pytest.mark.parametrize(("dtype", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_features_from_smaller_numbers_are_nearly_those_of_fp32(dtype: str, error: float, tmp_path: Path) -> None:
    names = ("linear", "two last adapters", "ladder", "ssf at the norm")
    states = useful(tmp_path, *names, dtype=dtype)
    fill(states, *names)
    kept = states.read(torch.arange(NUM_IMAGES), 0)
    assert kept is not None and {state.dtype for state in kept.values()} == {torch.float32}
    for who in members(*names):
        exact, near = features(who, known=seen(0)), features(who, known=kept)
        assert not torch.equal(near, exact)
        assert (near - exact).norm() / exact.norm() < error


def die_in_the_first_epoch(folder: Path, names: Sequence[str]) -> None:
    cohort, states = Cohort(backbone(), members(*names)), useful(folder, *names)
    for batch in list(loader().epoch(0, states))[:2]:
        cohort.step(batch)
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_entry_that_a_dead_process_half_filled_is_completed(tmp_path: Path) -> None:
    names = ("linear", "last adapter")
    process = multiprocessing.get_context("forkserver").Process(target=die_in_the_first_epoch, args=(tmp_path, names))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    states = useful(tmp_path, *names)
    halves = [not each.wanted for each in loader().epoch(0, states)]
    assert halves == [True, True, False, False]
    cached, plain = members(*names), members(*names)
    torch.testing.assert_close(trained(cached, states), trained(plain, None), rtol=0, atol=1e-6)
    assert_same(cached, plain)
    assert all(states.read(torch.arange(NUM_IMAGES), view) is not None for view in range(NUM_VIEWS))


# What is read


def features(who: Member, images: Tensor | None = None, known: Mapping[int, Tensor] | None = None) -> Tensor:
    trunk = backbone().trunk
    return run_shared(trunk, [who], shared_rows(trunk, [who], images, known=known))[0].detach()


@cache
def moved(name: str) -> Member:
    """A member of the table of methods, away from where it began."""
    who = Member(backbone(), num_classes=5, config=train(), tuners=TABLE[name])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in who.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return who


def reads(who: Member) -> frozenset[int]:
    return states_read(backbone().trunk, who)


@pytest.mark.parametrize("name", TABLE)
def test_the_states_that_a_method_reads_are_enough_and_needed(name: str) -> None:
    who, generator = moved(name), torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    from_images = features(who, backbone().normalise(pixels))
    states, needed = every_state(pixels), reads(who)
    if needed == {-1}:
        with pytest.raises(AssertionError):
            features(who, known=states)
        return
    from_states = features(who, known={depth: states[depth] for depth in needed})
    torch.testing.assert_close(from_states, from_images, rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match="neither images nor a known state"):
        features(who, known={depth: state for depth, state in states.items() if depth > min(needed)})


def test_methods_that_read_the_images_themselves() -> None:
    assert {name for name in TABLE if -1 in reads(moved(name))} == {
        "bitfit", "full", "ssf", "biases and an MLP head", "biases and prefixes", "full with prompts beside",
    }  # fmt: skip


def test_all_methods_together_read_what_each_reads() -> None:
    several = [moved(name) for name in TABLE if -1 not in reads(moved(name))]
    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    trunk, states = backbone().trunk, every_state(pixels)
    known = {depth: states[depth] for depth in frozenset().union(*map(reads, several))}
    together = run_shared(trunk, several, shared_rows(trunk, several, None, known=known))
    for who, mine in zip(several, together, strict=True):
        torch.testing.assert_close(mine, features(who, backbone().normalise(pixels)), rtol=0, atol=1e-5)


# What is worth its bytes


def num_bytes(folder: Path, depths: Sequence[int]) -> int:
    """What these states take on the disk, in all views."""
    kept = prefix(folder)
    for view in range(NUM_VIEWS):
        for depth in depths:
            kept.read(torch.arange(1), [depth], view)
    return PrefixCache(folder, PLENTY).bytes_held()


@pytest.mark.parametrize(
    ("names", "within", "depths", "images"),
    [
        (["linear"], [5], [5], False),
        (["linear", "full"], [5], [5], True),
        (["linear", "last adapter"], [5], [5], True),
        (["last adapter", "linear"], [3], [5], True),
        (["linear", "last adapter"], [3, 5], [3, 5], False),
        (["linear", "last adapter", "all adapters"], [0, 3, 5], [0, 3, 5], False),
        (["two last adapters", "last adapter"], [2], [2], False),
        (["last adapter", "two last adapters"], [3], [3], True),
        (["ladder", "linear"], [2, 3, 4, 5], [5], True),
        (["ladder", "linear"], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], False),
        (["ladder", "last adapter"], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], False),
        (["ssf at the norm", "linear"], [4, 5], [4, 5], False),
    ],
)
def test_the_cheapest_needs_come_first(
    names: list[str], within: list[int], depths: list[int], images: bool, tmp_path: Path
) -> None:
    budget = num_bytes(tmp_path / "measured", within)
    found = prefix(tmp_path / "used", budget=budget).useful(backbone(), members(*names), budget)
    assert found is not None and found.depths == depths and found.images == images


def test_what_is_chosen_fits_within_the_budget_to_the_byte(tmp_path: Path) -> None:
    names = ("linear", "last adapter", "ladder")
    several = members(*names)
    needs = [num_bytes(tmp_path / str(n), depths) for n, depths in enumerate(([5], [3, 5], [0, 1, 2, 3, 4, 5]))]
    for budget, depths in zip(needs, ([5], [3, 5], [0, 1, 2, 3, 4, 5]), strict=True):
        found = prefix(tmp_path / f"within {budget}", budget=budget).useful(backbone(), several, budget)
        assert found is not None and found.depths == depths
        fill(found, *names)
        assert all(found.read(torch.arange(NUM_IMAGES), view) is not None for view in range(NUM_VIEWS))
        less = prefix(tmp_path / "less").useful(backbone(), several, budget - 1)
        assert less is None or len(less.depths) < len(depths)


@pytest.mark.parametrize(("names", "budget"), [(["linear"], 0), (["linear", "ladder"], 100), (["full", "ssf"], PLENTY)])
def test_where_nothing_fits_or_is_read_nothing_is_useful(names: list[str], budget: int, tmp_path: Path) -> None:
    assert prefix(tmp_path).useful(backbone(), members(*names), budget) is None
    assert list(tmp_path.iterdir()) == []


# Views


def test_an_epoch_has_the_images_of_its_view() -> None:
    batches = loader(views=3)
    for epoch in range(3):
        assert all(same_images(batches.epoch(epoch), batches.epoch(epoch + 3)))
        assert not all(same_images(batches.epoch(epoch), batches.epoch(epoch + 1)))


def test_an_epoch_of_a_known_view_has_an_order_of_its_own() -> None:
    first, again = (torch.cat([batch.index for batch in loader().epoch(epoch)]) for epoch in (0, NUM_VIEWS))
    assert not torch.equal(first, again) and torch.equal(first.sort().values, again.sort().values)


def test_the_first_views_are_what_no_views_begin_with() -> None:
    assert all(same_images(loader().epoch(1), loader(views=None).epoch(1)))


def test_without_views_every_epoch_differs() -> None:
    batches = loader(views=None)
    for one, other in combinations(range(4), 2):
        assert not all(same_images(batches.epoch(one), batches.epoch(other)))


@pytest.mark.parametrize("views", [None, 2])
def test_evaluation_has_one_view(views: int | None, tmp_path: Path) -> None:
    batches = loader(views=views, train=False)
    assert all(same_images(batches.epoch(0), batches.epoch(1)))
    states = useful(tmp_path, "linear")
    Cohort(backbone(), members("linear")).evaluate(batches.epoch(0, states))
    assert all(batch.images is None for batch in batches.epoch(7, states))
