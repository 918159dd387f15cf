"""The pool: who is held, what it costs, what happens while others predict, and what it refuses."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

import utuning.pool
from tests.property.test_pool_law import BACKBONE, IMAGES, alone, moved
from tests.tools import adapter, tiny_backbone
from tests.unit.test_bundle import NAMES, save
from utuning.bundles.bundle import read_bundle
from utuning.configs import TunerConfig
from utuning.errors import BundleError, PoolError
from utuning.member import Member
from utuning.pool import TunerPool

ADAPTERS = (adapter("attn", "mlp"),)
FULL = (TunerConfig(method="full"),)


def member(*tuners: TunerConfig, num_classes: int = 3, seed: int = 0) -> Member:
    return moved(BACKBONE, tuners, num_classes, seed)


def pool_of(*members: Member, **options: Any) -> TunerPool:
    pool = TunerPool(BACKBONE, **options)
    for place, each in enumerate(members):
        pool.load(str(place), each)
    return pool


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


# What is held


def test_it_holds_members_and_bundles_until_they_are_unloaded(tmp_path: Path) -> None:
    path, saved = save(tmp_path / "bundle", BACKBONE, *ADAPTERS)
    pool = pool_of(member())
    assert pool.load("bundle", read_bundle(path)) == ()
    assert pool.names == ("0", "bundle")
    (logits,) = pool.predict(IMAGES, ["bundle"], [2])
    assert logits.shape == (len(NAMES),) and close(logits, alone(BACKBONE, saved)[2])
    pool.unload("bundle")
    assert pool.names == ("0",)


def test_it_holds_a_copy_of_its_own() -> None:
    who = member(*ADAPTERS)
    expected, pool = alone(BACKBONE, who), pool_of(who)
    with torch.no_grad():
        for parameter in who.parameters():
            parameter.zero_()
    assert close(torch.stack(pool.predict(IMAGES, ["0"] * len(IMAGES))), expected)


@pytest.mark.parametrize("tuners", [(), ADAPTERS, FULL, (TunerConfig(method="mlp_head"),)])
@pytest.mark.parametrize(("storage", "num_bytes"), [("fp32", 4), ("fp16", 2)])
def test_a_tuner_costs_its_own_bytes(tuners: tuple[TunerConfig, ...], storage: Any, num_bytes: int) -> None:
    who = member(*tuners)
    pool = pool_of(who, storage=storage)
    assert pool.bytes == {"0": num_bytes * sum(value.numel() for value in who.tensors().values())}


def test_half_precision_is_of_the_values_alone() -> None:
    who = member(*ADAPTERS)
    pool = pool_of(who, storage="fp16")
    who.load_tensors({name: value.half().float() for name, value in who.tensors().items()})
    assert close(torch.stack(pool.predict(IMAGES, ["0"] * len(IMAGES))), alone(BACKBONE, who))


SIZES = {f"{num_classes} classes": member(num_classes=num_classes) for num_classes in (1, 2, 5, 9)}
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["load", "use", "unload"]), st.sampled_from("abcd"), st.sampled_from(sorted(SIZES))),
    max_size=15,
)


@settings(max_examples=30, deadline=None)
@given(ACTIONS, st.integers(9, 20))
def test_the_least_recently_used_make_room(actions: list[tuple[str, str, str]], num_classes: int) -> None:
    each = next(iter(pool_of(SIZES["1 classes"]).bytes.values()))
    pool, expected = TunerPool(BACKBONE, num_classes * each), OrderedDict[str, int]()
    for action, name, size in actions:
        if action == "load":
            gone = pool.load(name, SIZES[size])
            expected.pop(name, None)
            expected[name] = SIZES[size].num_classes * each
            evicted = []
            while sum(expected.values()) > num_classes * each:
                evicted.append(expected.popitem(last=False)[0])
            assert list(gone) == evicted
        elif name in expected and action == "use":
            pool.predict(IMAGES, [name], [0])
            expected.move_to_end(name)
        elif name in expected:
            pool.unload(name)
            del expected[name]
    assert pool.bytes == dict(expected)


# What runs how often


@contextmanager
def rows_through() -> Iterator[dict[str, int]]:
    """How many rows pass the stem, and the layer `fc1` of all blocks together."""
    counts = {"PatchEmbed": 0, "Mlp": 0}

    def count(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if type(module).__name__ in counts:
            counts[type(module).__name__] += len(args[0])

    handle = register_module_forward_hook(count)
    yield counts
    handle.remove()


@pytest.mark.parametrize(
    ("tuners", "num_rows"),
    [((), 4), ((adapter("attn", depths=(3,)),), 3 + 8), ((adapter("block", depths=(2,)),), 3 + 8), (ADAPTERS, 8 * 4)],
)
def test_an_image_of_many_tuners_runs_once_below_the_first_tuned_depth(
    tuners: tuple[TunerConfig, ...], num_rows: int
) -> None:
    pool = pool_of(*(member(*tuners, seed=seed) for seed in range(8)))
    with rows_through() as counts:
        pool.predict(IMAGES, pool.names, [3] * 8)
    assert counts == {"PatchEmbed": 1, "Mlp": num_rows}


def test_images_that_nobody_shares_any_more_are_left_out() -> None:
    pool = pool_of(member(*ADAPTERS), member(TunerConfig(method="unipt")), member(*FULL), member())
    with rows_through() as counts:
        pool.predict(IMAGES, ["0", "1", "2", "3", "0"])
    assert counts == {"PatchEmbed": 5, "Mlp": 5 * 4}


def test_one_call_serves_the_tuners_of_one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = utuning.tuners.p_adapter.PAdapter.forward
    monkeypatch.setattr(
        utuning.tuners.p_adapter.PAdapter, "forward", lambda *args: calls.append(None) or forward(*args)
    )
    pool = pool_of(*(member(*ADAPTERS, num_classes=2 + seed, seed=seed) for seed in range(5)))
    pool.predict(IMAGES, pool.names)
    assert len(calls) == 2 * 4


# Threads


def test_a_prediction_under_way_keeps_the_tuners_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (member(*ADAPTERS, seed=seed) for seed in (0, 1))
    pool = pool_of(old, member())
    run = utuning.pool.run_streams

    def meanwhile(*args: Any) -> list[Tensor]:
        for act in (lambda: pool.load("0", new), lambda: pool.unload("1")):
            other = Thread(target=act)
            other.start()
            other.join()
        return run(*args)

    monkeypatch.setattr(utuning.pool, "run_streams", meanwhile)
    first, _ = pool.predict(IMAGES, ["0", "1"], [0, 0])
    monkeypatch.undo()
    assert close(first, alone(BACKBONE, old)[0]) and pool.names == ("0",)
    assert close(pool.predict(IMAGES, ["0"], [0])[0], alone(BACKBONE, new)[0])


def test_tuners_are_swapped_while_another_thread_predicts() -> None:
    versions = [
        member(*tuners, seed=seed) for seed, tuners in enumerate((ADAPTERS, (TunerConfig(method="ssf"),), FULL))
    ]
    expected = [alone(BACKBONE, each)[:2] for each in versions]
    pool, done, began = pool_of(versions[0], member()), Event(), Event()
    found: list[Tensor] = []
    failures: list[BaseException] = []

    def predict() -> None:
        try:
            while not done.is_set():
                found.append(torch.stack(pool.predict(IMAGES[:3], ["0", "0", "1"])[:2]))
                began.set()
        except BaseException as error:
            failures.append(error)
            began.set()

    other = Thread(target=predict)
    other.start()
    began.wait()
    for turn in range(1, 13):
        pool.load("0", versions[turn % 3])
        assert close(torch.stack(pool.predict(IMAGES[:2], ["0", "0"])), expected[turn % 3])
    done.set()
    other.join()
    assert failures == []
    assert all(any(close(each, version) for version in expected) for each in found)
    assert not any(module._forward_hooks for module in BACKBONE.trunk.model.modules())


# What it refuses


@pytest.mark.parametrize(
    ("names", "rows", "says"),
    [
        (["0", "o"], None, "holds no tuner 'o'; .*allowed: 0"),
        (["0"], None, "1 rows have names, and 5 have images"),
        (["0"], [5], "image 5, and the batch has images 0 to 4"),
        (["0"], [-1], "image -1, and"),
    ],
)
def test_rows_that_do_not_fit_are_named(names: list[str], rows: list[int] | None, says: str) -> None:
    with pytest.raises(PoolError, match=says):
        pool_of(member()).predict(IMAGES, names, rows)


@pytest.mark.parametrize("images", [IMAGES.float(), IMAGES[0], IMAGES[:, :, :16], IMAGES[:, :1]])
def test_images_of_another_kind_are_named(images: Tensor) -> None:
    with pytest.raises(PoolError, match=r"give torch.uint8 of \(B, 3, 32, 32\)"):
        pool_of(member()).predict(images, ["0"], [0])


def test_no_rows_give_no_logits() -> None:
    assert pool_of(member()).predict(IMAGES, [], []) == []


def test_a_tuner_that_cannot_be_held_leaves_the_pool_as_it_was(tmp_path: Path) -> None:
    small, other = member(), tiny_backbone(seed=1)
    pool = pool_of(small, byte_budget=10_000)
    strange = Member(other, num_classes=3, config=small.config)
    path, _ = save(tmp_path / "bundle", other)
    broken = member()
    broken.load_tensors({**broken.tensors(), "head.bias": torch.tensor([0.0, torch.nan, 0.0])})
    for tuner, error, says in (
        (member(*FULL), PoolError, "bytes, and the pool's budget is 10,000"),
        (strange, PoolError, "of a backbone with fingerprint"),
        (read_bundle(path), BundleError, "give the weights that it was trained on"),
        (broken, PoolError, "no finite numbers"),
    ):
        with pytest.raises(error, match=says):
            pool.load("0", tuner)
    with pytest.raises(PoolError, match="holds no tuner '1'"):
        pool.unload("1")
    assert pool.bytes == {"0": 4 * small.num_parameters()["head"]}
    assert close(pool.predict(IMAGES, ["0"], [0])[0], alone(BACKBONE, small)[0])


def test_values_too_large_for_half_precision_are_refused() -> None:
    who = member()
    who.load_tensors({**who.tensors(), "head.bias": torch.full((3,), 1e6)})
    with pytest.raises(PoolError, match="use a pool with storage 'fp32'"):
        pool_of(who, storage="fp16")
    assert pool_of(who).names == ("0",)
