"""Places that run tuning jobs: one file for each, all behind the Protocol in `base.py`."""

from __future__ import annotations

from pathlib import Path

from tunerun import schema
from tunerun.backends.base import Backend


def open_backend(section: schema.Backend, runs: Path, cache: Path) -> Backend:
    """Make the backend that a config's backend section describes; starts and sends nothing yet.

    Args:
        runs: where tuned models are kept that live on this machine.
        cache: where converted base models are kept.
    """
    # Imported here, so that a command pays for the backend it uses.
    match section:
        case schema.LocalBackend():
            from tunerun.backends.local import LocalBackend

            return LocalBackend(runs=runs, cache=cache, device=section.device, threads=section.threads)
        case schema.GeminiBackend():
            from tunerun.backends.gemini import GeminiBackend

            return GeminiBackend(section)
