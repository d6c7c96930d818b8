"""Which trials of a sweep were asked no more before they had answered all held-out rows, and why.

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
"""What the key of answers begins with that say why there are no more."""

_MOST_EVIDENCE = 1e300
"""JSON has no infinity."""


def stopped_by(sweep: str, asked: str) -> str:
    """What takes the place of how a subject was asked, for what a sweep has decided about it."""
    return f"{STOPPED}{sweep}:{asked}"


@dataclass(frozen=True)
class Stop:
    """Why a trial was asked no more.

    Attributes:
        better: the key of a trial of the point that it was decided to be worse than.
        e_value: the evidence by then. needed: the limit that it reached (`tunerun.statistics.anytime`).
        texts: what it answered to the first rows.
    """

    better: str = ""
    e_value: float = 0.0
    needed: float = 0.0
    texts: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows it answered."""
        return len(self.texts)

    @property
    def values(self) -> list[str]:
        """As it is stored: a JSON object, and the answers."""
        e_value = min(self.e_value, _MOST_EVIDENCE)
        return [dump({"better": self.better, "e_value": e_value, "needed": self.needed}), *self.texts]

    @classmethod
    def of(cls, values: Sequence[str]) -> Stop:
        """Read what was stored."""
        return read_stored(cls, load(values[0]), texts=tuple(values[1:]))


class _Answers(Protocol):
    @property
    def texts(self) -> tuple[str, ...]: ...


class _Ledger(Protocol):
    def record_answers(self, subject: str, held_out: str, asked: str, values: Sequence[str]) -> None: ...

    def answers(self, subject: str, held_out: str, asked: str) -> _Answers | None: ...


class StopTable:
    """The part of the ledger that keeps stops; `Ledger` inherits it."""

    def record_stop(self: _Ledger, sweep: str, key: tuple[str, str, str], stop: Stop) -> None:
        """Write down that a sweep asks no more; what was recorded first stays.

        Args:
            key: subject, held-out set and how it was asked.
        """
        subject, held_out, asked = key
        self.record_answers(subject, held_out, stopped_by(sweep, asked), stop.values)

    def stop(self: _Ledger, sweep: str, key: tuple[str, str, str]) -> Stop | None:
        """Why a sweep asks no more; None: it does."""
        subject, held_out, asked = key
        found = self.answers(subject, held_out, stopped_by(sweep, asked))
        return None if found is None else Stop.of(found.texts)
