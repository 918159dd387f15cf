"""Reproducing: a row becomes a space that draws the very same trials, and differences are said."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.deployment.verify import Wrong
from pipelines.tracking.records import RunRecord
from pipelines.workflows.reproduce import differences
from pipelines.workflows.row_space import space_of, write_space
from search_spaces.loader import HERE, load_space
from search_spaces.space import Facts
from utuning.configs import BackboneConfig, TrialConfig

FACTS = Facts(data_fingerprint="d", num_classes=5, backbone_fingerprint="b")
TRIALS = [
    trial
    for name in sorted(path.stem for path in HERE.glob("*.yaml"))
    for space in [load_space(name)]
    for trial in space.baseline_trials(FACTS) + space.probing_trials(FACTS)
]


def record(trial: TrialConfig, **metrics: float) -> RunRecord:
    return RunRecord(run_id="r", search_id="s", outcome="completed", trial=trial, metrics=metrics, start_time=0)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TRIALS))
def test_a_row_as_a_space_draws_the_same_trial(tmp_path_factory: pytest.TempPathFactory, trial: TrialConfig) -> None:
    backbone = BackboneConfig(name=trial.backbone, img_size=32)
    file = write_space(space_of("beetles", [record(trial)], backbone, Path("data")), tmp_path_factory.getbasetemp())
    space = load_space(str(file))
    assert not space.domains
    assert [each.trial_id for each in space.random_trials(FACTS)] == [trial.trial_id]


def test_equal_metrics_and_small_gaps_are_told_and_large_ones_are_wrong() -> None:
    stated = {"train/loss": 0.5, "val/accuracy": 0.9, "epoch": 2.0}
    counts = {"val": 1000, "test": 1000}
    assert all(text.endswith(("equal", "1000 images")) for text in differences(stated, stated, counts))
    texts = list(differences(stated, {"train/loss": 0.5001, "val/accuracy": 0.901}, counts))
    assert "differs by 1.0e-04" in texts[0] and "1 of 1000 images differ" in texts[1]
    with pytest.raises(Wrong, match="not equal, 100 of 1000"):
        list(differences(stated, {"val/accuracy": 0.8}, counts))


def test_test_is_not_told_of_a_row_that_does_not_state_it() -> None:
    assert not [
        text for text in differences({"val/loss": 1.0}, {"val/loss": 1.0, "test/accuracy": 0.5}, {}) if "test" in text
    ]
