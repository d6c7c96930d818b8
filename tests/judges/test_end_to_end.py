"""A judge on a real engine: the command line trains, asks the models, and then their judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.experiments import overrides
from tests.judges.server import JudgeService
from tests.ledger.test_formats import printed

pytestmark = pytest.mark.process


def test_a_run_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` prints the judge's score beside the other measures, and the version of its prompt."""
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
        calls = len(server.bodies)
    assert 0 < calls <= 20
    assert "eval/judge" in first["trials"][0]["metrics"]
    assert "eval/judge" in first["baselines"][0]["metrics"]
    assert any(note.startswith("judge: the judge is m (prompt 1, sha256 ") for note in first["notes"])
