"""Live progress of a run on stderr."""

from __future__ import annotations

from tunerun.cli.tables import err
from tunerun.runner.bars import BarProgress, LineProgress


def progress_on_stderr() -> LineProgress | BarProgress:
    """Bars on a terminal, lines elsewhere."""
    return BarProgress(err) if err.is_terminal else LineProgress(err)
