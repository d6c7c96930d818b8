"""The table says why it has no validation loss."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.experiments import overrides
from tests.rigs.gemini_service import GeminiService
from tunerun.cli import main

pytestmark = pytest.mark.process


def test_service_that_measures_no_validation_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the service ignores held-out rows, a line below the table says so."""
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    with GeminiService() as service:
        place = ("backend=gemini", f"backend.base_url={service.address}", "backend.poll_interval_s=0")
        monkeypatch.setattr(sys, "argv", ["tunerun", "run", *overrides(tmp_path, *place)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    assert "validation loss: -; the service does not measure it" in capsys.readouterr().out
