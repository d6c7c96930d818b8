"""Marks of what was sent to trackers: set after sending, so a mark never claims more than a tracker has."""

from __future__ import annotations

from tunerun.database import DatabaseFile
from tunerun.ledger.records import Mark
from tunerun.ledger.rows import dump, load

_RESTORED = ("record", "restored")
"""Tracker and subject of a mark that says of the ledger itself that it was restored from a record."""


class MarkTable:
    """The table of marks; `Ledger` inherits it, so that all tables share one connection."""

    _file: DatabaseFile

    @property
    def is_restored(self) -> bool:
        """Whether the ledger was restored from a record of another machine: code that it names is not run."""
        return self.mark(*_RESTORED) is not None

    def mark_restored(self) -> None:
        """Record that the ledger was restored from a record of another machine."""
        self.set_mark(*_RESTORED, Mark(None, {}))

    def mark(self, tracker: str, subject: str) -> Mark | None:
        """Return the mark of a subject at a tracker; None: nothing of it was sent yet."""
        row = self._file.row("SELECT * FROM mark WHERE tracker = ? AND subject = ?", [tracker, subject])
        return None if row is None else Mark(row["run_id"], load(row["document"]))

    def marks(self, tracker: str, prefix: str) -> dict[str, Mark]:
        """Return the marks of all subjects that begin with a prefix, by subject."""
        # Not LIKE, in which the `_` of a sweep's name matches any character.
        rows = self._file.rows(
            "SELECT * FROM mark WHERE tracker = ? AND substr(subject, 1, ?) = ?", [tracker, len(prefix), prefix]
        )
        return {r["subject"]: Mark(r["run_id"], load(r["document"])) for r in rows}

    def trial_marks(self, tracker: str, sweep: str, prefix: str) -> dict[str, Mark]:
        """Return the marks of the trials of a sweep, by subject.

        Args:
            tracker: the name of the tracker.
            sweep: its id.
            prefix: from `tunerun.ledger.subjects.trial_prefix`; a trial's key follows it.
        """
        rows = self._file.rows(
            "SELECT * FROM mark WHERE tracker = ? AND subject IN (SELECT ? || key FROM trial WHERE sweep = ?)",
            [tracker, prefix, sweep],
        )
        return {r["subject"]: Mark(r["run_id"], load(r["document"])) for r in rows}

    def set_mark(self, tracker: str, subject: str, mark: Mark) -> None:
        """Record the mark of a subject, in the place of an earlier one.

        Args:
            tracker: the name of the tracker.
            subject: from `tunerun.ledger.subjects`.
            mark: what was sent by now.
        """
        with self._file.transaction():
            self._file.write(
                "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", [tracker, subject, mark.run_id, dump(mark.document)]
            )

    def void_marks(self, tracker: str) -> int:
        """Reset all marks of a tracker, whose store was lost, and return the number of marks."""
        # The subjects stay: by them `Replay.overdue` knows which sweeps the tracker had.
        with self._file.transaction():
            return self._file.write("UPDATE mark SET run_id = NULL, document = '{}' WHERE tracker = ?", [tracker])

    def subject_of_run(self, run_id: str) -> str | None:
        """Return the subject of a tracker's run; None: not a run of ours."""
        row = self._file.row("SELECT subject FROM mark WHERE run_id = ?", [run_id])
        return None if row is None else row["subject"]
