"""A judge on a real engine: the command line trains, asks it, and repeats the sweep from its record without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.experiments import overrides
from tests.judges.server import JudgeService
from tests.ledger.test_formats import printed

pytestmark = pytest.mark.slow


def test_a_run_is_judged_and_repeated_without_the_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` asks the judge, and `rerun --verify` has the same verdict by the recorded judgements of equal answers."""
    tiny = tiny_model.build(tmp_path / "tiny")
    options = [
        *overrides(tmp_path, "model=huggingface", f"model.name={tiny}", "backend.threads=1", "backend.device=cpu"),
        "evaluation.generation.max_output_tokens=4",
        "evaluation.baselines.examples=[0]",
        "hyperparameters.epoch_count=1",
        "hyperparameters.learning_rate=0.01",
    ]
    with JudgeService() as server:
        metrics = f"evaluation.metrics=[{{name: judge, base_url: '{server.base_url}', model: m, rubric: r, key_variable: null}}]"
        first = printed(capsys, "run", *options, metrics)
        asked = len(server.asked)
    assert 0 < asked <= 20
    assert "eval/judge" in first["trials"][0]["metrics"]
    places = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", f"model.source={tiny}"]
    again = printed(capsys, "rerun", "--run", first["sweep"], "--verify", "tracking=none", *places)
    assert again["verification"]["equal"]
    assert again["trials"][0]["metrics"]["eval/judge"] == first["trials"][0]["metrics"]["eval/judge"]
    assert [each["metrics"] for each in again["baselines"]] == [each["metrics"] for each in first["baselines"]]
    assert not any("the judge's scores of" in note for note in again["notes"])
