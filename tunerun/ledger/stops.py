"""Trials whose evaluation was stopped before they had answered all held-out rows, with the reason.

A stop is kept among the answers, under a key of its own, with the answers so far: records and trackers have it as they
have all answers. It is one sweep's: another one may ask for the rest, and complete answers count wherever they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tunerun.ledger.rows import dump, load
from tunerun.stored import read_stored

STOPPED = "stopped:"
"""Prefix of `asked` for a stop: the reason and the answers so far."""

_MOST_EVIDENCE = 1e300
"""Largest e-value that is stored, since JSON has no infinity."""


def stopped_by(sweep: str, asked: str) -> str:
    """Return the `asked` part of the key for a sweep's stop of a subject."""
    return f"{STOPPED}{sweep}:{asked}"


@dataclass(frozen=True)
class Stop:
    """Why the evaluation of a trial was stopped.

    Attributes:
        better: the key of a trial of the point that it is worse than.
        e_value: the evidence (`tunerun.statistics.anytime`).
        needed: the limit that it reached.
        texts: its answers to the first rows.
    """

    better: str = ""
    e_value: float = 0.0
    needed: float = 0.0
    texts: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows that it answered."""
        return len(self.texts)

    @property
    def values(self) -> list[str]:
        """The stop as it is stored: a JSON object, then the answers."""
        e_value = min(self.e_value, _MOST_EVIDENCE)
        return [dump({"better": self.better, "e_value": e_value, "needed": self.needed}), *self.texts]

    @classmethod
    def of(cls, values: Sequence[str]) -> Stop:
        """Read a stop from its stored values; what an earlier version did not store has its default."""
        return read_stored(cls, load(values[0]), texts=tuple(values[1:]))


class _Answers(Protocol):
    @property
    def texts(self) -> tuple[str, ...]: ...


class _Ledger(Protocol):
    def record_answers(self, subject: str, held_out: str, asked: str, values: Sequence[str]) -> None: ...

    def answers(self, subject: str, held_out: str, asked: str) -> _Answers | None: ...


class StopTable:
    """Stops, kept in the table of answers; `Ledger` inherits it."""

    def record_stop(self: _Ledger, sweep: str, key: tuple[str, str, str], stop: Stop) -> None:
        """Record that a sweep stops asking a subject; an earlier record is kept.

        Args:
            sweep: its id.
            key: subject, held-out set and how it was asked.
            stop: the reason, and the answers to the first rows.
        """
        subject, held_out, asked = key
        self.record_answers(subject, held_out, stopped_by(sweep, asked), stop.values)

    def stop(self: _Ledger, sweep: str, key: tuple[str, str, str]) -> Stop | None:
        """Return why a sweep stopped asking a subject; None: it did not stop."""
        subject, held_out, asked = key
        stored = self.answers(subject, held_out, stopped_by(sweep, asked))
        return None if stored is None else Stop.of(stored.texts)
