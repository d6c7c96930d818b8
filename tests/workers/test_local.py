"""Engine processes side by side on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.workers.sweeps import Outcome, outcomes


def test_two_processes_have_the_results_of_one(tmp_path: Path, tiny_folder: Path, alone: Mapping[str, Outcome]) -> None:
    """Adapters, losses and answers have the same bits, and both processes worked."""
    assert outcomes(tmp_path / "two", tiny_folder, "backend.workers.count=2") == alone
    logs = tmp_path / "two" / "runs" / "logs"
    assert {file.name for file in logs.iterdir()} == {"engine.log", "engine-1.log"}
