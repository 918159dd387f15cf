"""Which trials can train as one cohort: those that differ only in what is a member's own."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools import adapter, trial_of
from utuning.configs import TrainConfig, TrialConfig

OWN = {
    "tuners": (adapter("attn"),),
    "protocol": "v2",
    "train.lr": 0.5,
    "train.epochs": 7,
    "train.weight_decay": 0.5,
    "train.warmup_epochs": 2.0,
    "train.label_smoothing": 0.5,
    "train.drop_path": 0.5,
}
COMMON = {
    "dataset": "moths",
    "data_fingerprint": "d2",
    "num_classes": 21,
    "backbone": "swin",
    "backbone_fingerprint": "b2",
    "recipe": "rrc",
    "precision": "bf16",
    "views": 3,
    "cache_dtype": "fp16",
    "train_splits": ("train", "val"),
    "train.batch_size": 7,
    "train.seed": 1,
}
CHANGES = st.frozensets(st.sampled_from([*OWN, *COMMON]))


def changed(names: frozenset[str]) -> TrialConfig:
    """The usual trial with other values of these fields."""
    trial, values = trial_of(), {**OWN, **COMMON}
    training: dict[str, Any] = {name.removeprefix("train."): values[name] for name in names if "." in name}
    others: dict[str, Any] = {name: values[name] for name in names if "." not in name}
    return replace(trial, train=replace(trial.train, **training), **others)


def test_every_field_is_a_members_own_or_common_to_its_cohort() -> None:
    training = {f"train.{each.name}" for each in fields(TrainConfig)}
    assert OWN.keys() | COMMON.keys() == training | {each.name for each in fields(TrialConfig)} - {"train"}


def test_every_change_makes_another_trial() -> None:
    trials = [changed(frozenset(names)) for names in ((), *([name] for name in (*OWN, *COMMON)))]
    assert len({trial.trial_id for trial in trials}) == len(trials)


@pytest.mark.parametrize("name", [*OWN, *COMMON])
@given(CHANGES)
def test_trials_that_differ_in_one_field_share_a_cohort_exactly_if_it_is_a_members_own(
    name: str, names: frozenset[str]
) -> None:
    one, other = changed(names - {name}), changed(names | {name})
    assert (one.cohort_key == other.cohort_key) == (name in OWN)


@given(CHANGES)
def test_a_trial_that_was_written_and_read_again_keeps_its_cohort(names: frozenset[str]) -> None:
    trial = changed(names)
    assert TrialConfig.from_dict(trial.as_dict()).cohort_key == trial.cohort_key
