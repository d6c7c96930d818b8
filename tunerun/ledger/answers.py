"""Answers to held-out examples, stored as generated, so that a new metric needs no model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tunerun.database import DatabaseFile
from tunerun.digest import digest
from tunerun.generation import GenerateOptions
from tunerun.ledger.checksums import row_checksum
from tunerun.ledger.ratings import RATED
from tunerun.ledger.rows import RowReader, dump
from tunerun.ledger.stops import STOPPED
from tunerun.stored import read_stored

LOSSES = "losses"
"""The `asked` part of the key for losses of the expected answers, which are computed without generating text."""


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of one subject to the examples of one held-out set, in the set's order.

    Attributes:
        values: the texts; for `LOSSES` the mean loss of each expected answer, in nats per output token.
        created_at: when they were recorded, in seconds since 1970 (UTC).
    """

    values: tuple[str, ...] | tuple[float, ...]
    created_at: float

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as texts, of answers that were generated or chosen."""
        return tuple(str(value) for value in self.values)

    @property
    def losses(self) -> tuple[float, ...]:
        """The values as losses of the expected answers."""
        return tuple(float(value) for value in self.values)


def asked_by(generation: GenerateOptions, choices: Sequence[str] = ()) -> str:
    """Return a digest of how answers are obtained: the `asked` part of their key.

    Args:
        generation: the options of generation.
        choices: the answers that a model chooses from; empty: it generates.
    """
    if choices:  # the likeliest choice is taken, so the options of generation do not matter
        return digest({"choices": list(choices)})
    return digest(
        {"max_output_tokens": generation.max_output_tokens, "temperature": float(generation.temperature)},
    )


def holds_texts(asked: str) -> bool:
    """Whether answers under this key are a model's complete texts: not losses, judgements, or a part of the answers."""
    return asked != LOSSES and not asked.startswith((RATED, STOPPED))


class AnswerTable:
    """The tables of answers; `Ledger` inherits it, so that all tables share one connection."""

    _file: DatabaseFile
    _rows: RowReader

    def record_answers(self, subject: str, held_out: str, asked: str, values: Sequence[str] | Sequence[float]) -> None:
        """Record the answers of a subject; answers that are there already are kept.

        Args:
            subject: the key of a trial, or the subject of a baseline.
            held_out: the digest of the example set.
            asked: from `asked_by`, or `LOSSES`.
            values: one for each example of the set.
        """
        with self._file.transaction():
            self._record_answers(subject, held_out, asked, values)

    def _record_answers(self, subject: str, held_out: str, asked: str, values: Sequence[str] | Sequence[float]) -> None:
        created_at, text = time.time(), dump(list(values))
        of_values = row_checksum(text)
        checksum = row_checksum(subject, held_out, asked, created_at, of_values)
        self._file.write(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
            [subject, held_out, asked, text, created_at, of_values, checksum],
        )

    def record_some_answers(
        self, key: tuple[str, str, str], start: int, values: Sequence[str] | Sequence[float], *, rows: int
    ) -> None:
        """Record the answers to some of the examples; with the last ones, the answers of the subject are complete.

        Args:
            key: subject, held-out set and how it was asked, as for `record_answers`.
            start: the position of the first of these examples.
            values: one for each of these examples.
            rows: how many examples the set has.
        """
        # A service's answers are paid for: each part is written as it arrives, so that a killed run asks no row twice.
        text = dump(list(values))
        with self._file.transaction():
            self._file.write(
                "INSERT OR IGNORE INTO some_answers VALUES (?, ?, ?, ?, ?, ?)",
                [*key, start, text, row_checksum(*key, start, text)],
            )
            so_far = self.answers_so_far(*key)
            if len(so_far) >= rows:
                self._record_answers(*key, so_far)
                self._file.write(f"DELETE FROM some_answers WHERE {_OF_KEY}", key)

    def answers_so_far(self, subject: str, held_out: str, asked: str) -> list[Any]:
        """Return the answers so far to a set that is only partly answered; empty if none are, or all.

        Args:
            subject, held_out, asked: as for `record_answers`.

        Raises:
            LedgerError: a row is damaged.
        """
        answers: list[Any] = []
        rows = self._file.rows(f"SELECT * FROM some_answers WHERE {_OF_KEY} ORDER BY start", [subject, held_out, asked])
        for row in rows:
            start, values = self._rows.some_answers(row)
            if start <= len(answers):  # two sweeps that ask at once may overlap: the first answers are kept
                answers += values[len(answers) - start :]
        return answers

    def answers(self, subject: str, held_out: str, asked: str) -> StoredAnswers | None:
        """Return the answers of a subject; None: it was not asked.

        Args:
            subject, held_out, asked: as for `record_answers`.

        Raises:
            LedgerError: the row is damaged.
        """
        row = self._file.row(f"SELECT * FROM answers WHERE {_OF_KEY}", [subject, held_out, asked])
        return None if row is None else StoredAnswers(*self._rows.answers(row))

    def answers_of_sweep(self, sweep: str) -> dict[tuple[str, str, str], StoredAnswers]:
        """Return all answers of a sweep's trials and baselines, by subject, held-out set and `asked`.

        They include the answers that other sweeps obtained from shared trials in other ways.
        """
        rows = self._file.rows(f"SELECT * FROM answers WHERE {_OF_SWEEP}", [sweep, sweep])
        return {(r["subject"], r["held_out"], r["asked"]): StoredAnswers(*self._rows.answers(r)) for r in rows}

    def answered(self, sweep: str) -> frozenset[tuple[str, str, str]]:
        """Return the keys of the answers of a sweep's trials and baselines, without reading the answers."""
        rows = self._file.rows(f"SELECT subject, held_out, asked FROM answers WHERE {_OF_SWEEP}", [sweep, sweep])
        return frozenset((row["subject"], row["held_out"], row["asked"]) for row in rows)

    def answered_by_baselines(self) -> frozenset[tuple[str, str, str]]:
        """Return the keys of the answers of the baselines of all sweeps."""
        rows = self._file.rows(
            "SELECT subject, held_out, asked FROM answers WHERE subject IN (SELECT subject FROM baseline)", []
        )
        return frozenset((row["subject"], row["held_out"], row["asked"]) for row in rows)

    def answered_at(self, subject: str, held_out: str, asked: str) -> float | None:
        """Return when a subject answered, in seconds since 1970 (UTC); None: it was not asked."""
        row = self._file.row(f"SELECT created_at FROM answers WHERE {_OF_KEY}", [subject, held_out, asked])
        return None if row is None else row["created_at"]


_OF_KEY = "subject = ? AND held_out = ? AND asked = ?"
_OF_SWEEP = "subject IN (SELECT key FROM trial WHERE sweep = ? UNION SELECT subject FROM baseline WHERE sweep = ?)"


@lru_cache(maxsize=1000)
def asked_of(generation: str | None) -> str:
    """Return `asked` for trials of formats 1 to 3, from their `evaluation.generation` as JSON; None: its defaults."""
    values = json.loads(generation) if generation else {}
    return asked_by(read_stored(GenerateOptions, values if isinstance(values, dict) else {}))


def texts_of(predictions: str) -> str:
    """Return the answers alone from an evaluation of formats 1 to 3, as JSON."""
    try:
        return dump([prediction["predicted"] for prediction in json.loads(predictions)])
    except (ValueError, TypeError, KeyError):  # damaged: its checksum is found to be wrong when the row is read
        return "[]"
