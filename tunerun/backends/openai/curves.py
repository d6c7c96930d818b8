"""A job's loss curve: live from its events, completed from the result file of a finished job."""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunerun.backends.http import Json
from tunerun.job import EpochLoss, Snapshot

_STEP = re.compile(r"Step (\d+)(?:/(\d+))?: training loss=([^,\s]+)(?:.*full validation loss=([^,\s]+))?")
"""OpenAI's and Azure's event message, for hosts whose events have no `data`."""

_FULL_LOSS = ("full_valid_loss", "full_validation_loss")
"""Field with the loss on all held-out examples; `valid_loss` is measured on a sample of them."""


@dataclass(frozen=True)
class CurvePoint:
    """The losses after a step; None: not measured, or not a number.

    Attributes:
        step: from 1.
        total: number of steps of the whole job; None: unknown.
    """

    step: int
    loss: float | None
    held_out: float | None = None
    total: int | None = None
    time: float | None = None


@dataclass
class Curve:
    """The losses of a job that are known so far. Only the first loss of a step is kept.

    Attributes:
        event_ids: of the events that were read.
        newest: id of the newest event that was read.
        is_ascending: whether the service lists events oldest first.
        first_at: time of the earliest point, in seconds since 1970; None: no point has a time.
    """

    event_ids: set[str] = field(default_factory=set)
    newest: str | None = None
    is_ascending: bool = False
    first_at: float | None = None
    _losses: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    _held_out: dict[int, float] = field(default_factory=dict)
    _total: int | None = None

    def add(self, points: Iterable[CurvePoint]) -> None:
        """Merge further points into the curve."""
        # The first loss of a step is kept: checkpoints and the result file repeat the steps that had events.
        for point in points:
            if point.loss is not None:
                self._losses.setdefault(point.step, (point.loss, point.time))
            if point.held_out is not None:
                self._held_out.setdefault(point.step, point.held_out)
            self._total = point.total or self._total
            if point.time is not None:
                self.first_at = point.time if self.first_at is None else min(self.first_at, point.time)

    def epoch_of(self, step: int, epochs: int, total: int) -> int:
        """Return the epoch that a step belongs to, from 1.

        Args:
            step: from 1.
            epochs: number of epochs of the job.
            total: number of steps of the job.
        """
        # Rounded up: steps are spread evenly over the epochs.
        return min(epochs, -(-step * epochs // total))

    def total(self, planned: int | None, *, is_whole: bool) -> int | None:
        """Return the number of steps of the job: from its events, else the last step of a whole curve, else as planned.

        Args:
            planned: number of steps recorded when the job was created; None: unknown.
            is_whole: whether the curve is complete, because the job has ended.
        """
        highest = max(self._losses, default=None) if is_whole else None
        return self._total or highest or planned

    def snapshots(self, epochs: int, total: int, ended_at: float, *, is_whole: bool) -> tuple[Snapshot, ...]:
        """Return the curve by step.

        Args:
            epochs: number of epochs of the job.
            total: number of steps of the job.
            ended_at: time for steps that have none, in seconds since 1970 (UTC).
            is_whole: whether the job has ended; otherwise the curve is cut at the first missing step, which may still
                arrive.
        """
        snapshots: list[Snapshot] = []
        for step in sorted(self._losses):
            if not is_whole and step != len(snapshots) + 1:
                break
            loss, time = self._losses[step]
            snapshots.append(
                Snapshot(step, self.epoch_of(step, epochs, total), loss, ended_at if time is None else time)
            )
        return tuple(snapshots)

    def validation(self, epochs: int, total: int) -> tuple[EpochLoss, ...]:
        """Return the loss on all held-out examples for each epoch after which it was measured."""
        by_epoch = {}
        for step, loss in sorted(self._held_out.items()):
            epoch = self.epoch_of(step, epochs, total)
            if step == total or self.epoch_of(step + 1, epochs, total) > epoch:
                by_epoch[epoch] = loss
        return tuple(EpochLoss(epoch, loss) for epoch, loss in by_epoch.items())


def of_events(events: Iterable[Json]) -> Iterator[CurvePoint]:
    """Yield the points of events, oldest first."""
    # Sorted here, because the order of the list is not documented and differs by host.
    ordered = sorted(events, key=lambda event: _number(event.get("created_at")) or 0.0)
    for event in ordered:
        values = event.get("data")
        values = values if isinstance(values, dict) else {}
        if "step" not in values and (match := _STEP.match(str(event.get("message") or ""))) is not None:
            names = ("step", "total_steps", "train_loss", "full_valid_loss")
            values = {name: value for name, value in zip(names, match.groups(), strict=True) if value is not None}
        step = _whole(values.get("step"))
        if step is not None:
            total = _whole(values.get("total_steps"))
            yield CurvePoint(
                step, _number(values.get("train_loss")), _full(values), total, _number(event.get("created_at"))
            )


def of_checkpoints(checkpoints: Iterable[Json]) -> Iterator[CurvePoint]:
    """Yield the held-out losses of checkpoints; training losses are read from events."""
    for checkpoint in checkpoints:
        values, step = checkpoint.get("metrics"), _whole(checkpoint.get("step_number"))
        if step is not None and isinstance(values, dict):
            yield CurvePoint(step, None, _full(values))


def of_file(content: bytes) -> Iterator[CurvePoint]:
    """Yield the rows of a result file: CSV, plain or base64, with the column names of any known service."""
    # OpenAI sends the file in base64 (user reports) and Azure as plain CSV (its reference), read 2026-11-22.
    text = content.decode("utf-8-sig", errors="replace")
    if not text.lstrip().startswith(("step,", '"step"')):
        with contextlib.suppress(binascii.Error):  # a CSV whose first column is not the step
            text = base64.b64decode(content, validate=False).decode("utf-8-sig", errors="replace")
    for row in csv.DictReader(io.StringIO(text)):
        values = {str(name).strip(): value for name, value in row.items()}
        step = _whole(values.get("step"))
        if step is not None:
            yield CurvePoint(step, _number(values.get("train_loss")), _full(values))


def _full(values: Mapping[str, Any]) -> float | None:
    return next((loss for name in _FULL_LOSS if (loss := _number(values.get(name))) is not None), None)


def _number(value: object) -> float | None:
    """Parse a finite number, which may be given as text; None: it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    """Parse a step, from 1; None: it is not one."""
    number = _number(value)
    return None if number is None or number < 1 or number != int(number) else int(number)
