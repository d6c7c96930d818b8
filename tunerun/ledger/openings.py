"""Openings of a sweep's test set: a choice made after an opening may have been influenced by its rows."""

from __future__ import annotations

from collections.abc import Iterable

from tunerun.database import DatabaseFile
from tunerun.ledger.checksums import with_checksum
from tunerun.ledger.records import Opening
from tunerun.ledger.rows import RowReader, dump


class OpeningTable:
    """The table of openings; `Ledger` inherits it, so that all tables share one connection."""

    _file: DatabaseFile
    _rows: RowReader

    def open_test(self, sweep: str, points: Iterable[int], at: float) -> None:
        """Record that the test set is about to be opened for trials of a sweep.

        Args:
            sweep: its id.
            points: the numbers of the trials.
            at: the time, in seconds since 1970 (UTC).
        """
        numbers = sorted(set(points))
        rows = self._file.rows("SELECT * FROM trial WHERE sweep = ? ORDER BY number", [sweep])
        opened = [trial for trial in map(self._rows.trial, rows) if trial.number in numbers]
        sets = sorted({trial.held_out["test"] for trial in opened if "test" in trial.held_out})
        with self._file.transaction():
            self._file.write(
                "INSERT INTO opening VALUES (?, ?, ?, ?, ?)", with_checksum(sweep, at, dump(numbers), dump(sets))
            )

    def openings(self, sweep: str) -> list[Opening]:
        """Return the openings of a sweep's test set, oldest first, including those by other sweeps that share it."""
        # By the set's digest: rows that another sweep has looked at are no longer unseen here either.
        rows = self._file.rows(
            "SELECT * FROM opening WHERE sweep = ?1 OR EXISTS (SELECT 1 FROM json_each(opening.held_out) JOIN trial "
            "ON json_extract(trial.held_out, '$.test') = json_each.value WHERE trial.sweep = ?1) ORDER BY rowid",
            [sweep],
        )
        return [self._rows.opening(row) for row in rows]
