"""Live progress of a slow plan on stderr."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import Self

INTERVAL_S = 2.0
"""Seconds between two lines, and before the first: a plan of some thousand rows is done by then."""


class Stages:
    """Prints the current stage of a plan from time to time, each stage at most once.

    Called with the name of each stage as the plan reaches it.

    Args:
        interval_s: seconds between two lines.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._stage: str | None = None
        self._is_over = Event()
        self._printer = Thread(target=self._print, name="stages", daemon=True)

    def __call__(self, stage: str) -> None:
        """Set the current stage."""
        self._stage = stage

    def __enter__(self) -> Self:
        self._printer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._printer.join()

    def _print(self) -> None:
        printed = None
        while not self._is_over.wait(self._interval_s):
            stage = self._stage
            if stage is not None and stage != printed:
                # Imported here: a plan that is done within the interval needs no console.
                from tunerun.cli.tables import err, plain

                err.print(f"{plain(stage)} ...")
                printed = stage
