"""Configs of a record, as a rerun reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import planned
from tunerun.planning import plan
from tunerun.record.stored_config import StoredConfigs
from tunerun.schema import Paths, Tracking

pytestmark = pytest.mark.process


def test_settings_that_a_config_left_to_the_machine_are_those_of_the_trial(tmp_path: Path) -> None:
    """Threads and number format are the trial's, unless the config states them."""
    trials = planned(tmp_path, "backend.device=cpu", "backend.precision=auto,bf16").trials
    computed = {trial.key: {"threads": 2, "precision": "fp32"} for trial in trials}
    configs = StoredConfigs(Paths(runs=str(tmp_path / "again")), Tracking(kind="none"), computed=computed)
    experiment, _kept = configs.experiment([trial.record() for trial in trials], {})
    again = [point.config.backend.model_dump() for point in experiment.points]
    assert [(backend["threads"], backend["precision"]) for backend in again] == [(2, "fp32"), (2, "bf16")]
    assert [trial.key for trial in plan(experiment).trials] == [trial.key for trial in trials]
