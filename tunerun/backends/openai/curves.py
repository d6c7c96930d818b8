"""A job's loss curve: live from its events, completed from the file that a finished job leaves."""

from __future__ import annotations

import base64
import binascii
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
"""As OpenAI and Azure word it, for a host whose events have no data."""

_FULL_LOSS = ("full_valid_loss", "full_validation_loss")
"""The loss on all held-out examples; `valid_loss` is that of a few of them."""


@dataclass(frozen=True)
class Point:
    """The losses after a step; None: not measured, or not a number.

    Attributes:
        total: steps of the whole job; None: not known.
    """

    step: int
    loss: float | None
    held_out: float | None = None
    total: int | None = None
    time: float | None = None


@dataclass
class Curve:
    """What is known of a job's losses so far; the first loss of a step stays.

    Attributes:
        seen: ids of the events that were read.
        newest: id of the newest of them. is_ascending: whether the service lists the oldest first.
    """

    seen: set[str] = field(default_factory=set)
    newest: str | None = None
    is_ascending: bool = False
    first_at: float | None = None
    _losses: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    _held_out: dict[int, float] = field(default_factory=dict)
    _total: int | None = None

    def add(self, points: Iterable[Point]) -> None:
        """Take in what is new."""
        for point in points:
            if point.loss is not None:
                self._losses.setdefault(point.step, (point.loss, point.time))
            if point.held_out is not None:
                self._held_out.setdefault(point.step, point.held_out)
            self._total = point.total or self._total
            if point.time is not None:
                self.first_at = point.time if self.first_at is None else min(self.first_at, point.time)

    def epoch_of(self, step: int, epochs: int, total: int) -> int:
        """The epoch that a step belongs to, from 1."""
        return min(epochs, -(-step * epochs // total))

    def total(self, planned: int | None, *, is_whole: bool) -> int | None:
        """Steps of the whole job: as its events say, as was planned, or, of a whole curve, as there are."""
        highest = max(self._losses, default=None) if is_whole else None
        return self._total or highest or planned

    def snapshots(self, epochs: int, total: int, ended_at: float, *, is_whole: bool) -> tuple[Snapshot, ...]:
        """The curve by step; of a job under way up to the first step that is missing, which may still come.

        Args:
            ended_at: the time of steps that came without one.
        """
        found: list[Snapshot] = []
        for step in sorted(self._losses):
            if not is_whole and step != len(found) + 1:
                break
            loss, time = self._losses[step]
            found.append(Snapshot(step, self.epoch_of(step, epochs, total), loss, ended_at if time is None else time))
        return tuple(found)

    def validation(self, epochs: int, total: int) -> tuple[EpochLoss, ...]:
        """The loss on all held-out examples after each epoch where it was measured."""
        found = {}
        for step, loss in sorted(self._held_out.items()):
            epoch = self.epoch_of(step, epochs, total)
            if step == total or self.epoch_of(step + 1, epochs, total) > epoch:
                found[epoch] = loss
        return tuple(EpochLoss(epoch, loss) for epoch, loss in found.items())


def of_events(events: Iterable[Json]) -> Iterator[Point]:
    """The points of events, in the order of time."""
    ordered = sorted(events, key=lambda event: _number(event.get("created_at")) or 0.0)
    for event in ordered:
        values = event.get("data")
        values = values if isinstance(values, dict) else {}
        if "step" not in values:
            values = _in_words(str(event.get("message") or ""))
        step = _whole(values.get("step"))
        if step is not None:
            total = _whole(values.get("total_steps"))
            yield Point(step, _number(values.get("train_loss")), _full(values), total, _number(event.get("created_at")))


def of_checkpoints(checkpoints: Iterable[Json]) -> Iterator[Point]:
    """The held-out losses that checkpoints have; the loss of a step is that of its event."""
    for checkpoint in checkpoints:
        values, step = checkpoint.get("metrics"), _whole(checkpoint.get("step_number"))
        if step is not None and isinstance(values, dict):
            yield Point(step, None, _full(values))


def of_file(content: bytes) -> Iterator[Point]:
    """The rows of a result file: CSV, plain or in base64, with the columns of any of the services' versions."""
    for row in csv.DictReader(io.StringIO(_text(content))):
        values = {str(name).strip(): value for name, value in row.items()}
        step = _whole(values.get("step"))
        if step is not None:
            yield Point(step, _number(values.get("train_loss")), _full(values))


def _text(content: bytes) -> str:
    plain = content.decode("utf-8-sig", errors="replace")
    if plain.lstrip().startswith(("step,", '"step"')):
        return plain
    try:
        return base64.b64decode(content, validate=False).decode("utf-8-sig", errors="replace")
    except binascii.Error:
        return plain


def _in_words(message: str) -> dict[str, Any]:
    found = _STEP.match(message)
    if found is None:
        return {}
    names = ("step", "total_steps", "train_loss", "full_valid_loss")
    return {name: value for name, value in zip(names, found.groups(), strict=True) if value is not None}


def _full(values: Mapping[str, Any]) -> float | None:
    return next((loss for name in _FULL_LOSS if (loss := _number(values.get(name))) is not None), None)


def _number(value: object) -> float | None:
    """A finite number, also in a text; None: it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    """A step, from 1."""
    number = _number(value)
    return None if number is None or number < 1 or number != int(number) else int(number)
