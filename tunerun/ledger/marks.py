"""How far trackers have been brought: marked after they were told, so a mark never says more than a tracker has."""

from __future__ import annotations

from tunerun.database import DatabaseFile
from tunerun.ledger.records import Mark
from tunerun.ledger.rows import dump, load

_RESTORED = ("record", "restored")
"""The mark of a ledger that was made of a record, which is no tracker's."""


class MarkTable:
    """The part of the ledger that keeps marks; `Ledger` inherits it, so that its file has one connection."""

    _file: DatabaseFile

    @property
    def is_restored(self) -> bool:
        """Whether it was made of a record from elsewhere: no code that it names is run."""
        return self.mark(*_RESTORED) is not None

    def mark_restored(self) -> None:
        """Write down that it was made of a record from elsewhere."""
        self.set_mark(*_RESTORED, Mark(None, {}))

    def mark(self, tracker: str, subject: str) -> Mark | None:
        """How far a tracker was brought for a subject; None: it was never told of it."""
        row = self._file.row("SELECT * FROM mark WHERE tracker = ? AND subject = ?", [tracker, subject])
        return None if row is None else Mark(row["run_id"], load(row["document"]))

    def marks(self, tracker: str, prefix: str) -> dict[str, Mark]:
        """How far a tracker was brought for all subjects that begin with a prefix, by subject."""
        rows = self._file.rows(
            "SELECT * FROM mark WHERE tracker = ? AND substr(subject, 1, ?) = ?", [tracker, len(prefix), prefix]
        )
        return {r["subject"]: Mark(r["run_id"], load(r["document"])) for r in rows}

    def trial_marks(self, tracker: str, sweep: str, prefix: str) -> dict[str, Mark]:
        """How far a tracker was brought for the trials of a sweep, whose subjects are a prefix and their key."""
        rows = self._file.rows(
            "SELECT * FROM mark WHERE tracker = ? AND subject IN (SELECT ? || key FROM trial WHERE sweep = ?)",
            [tracker, prefix, sweep],
        )
        return {r["subject"]: Mark(r["run_id"], load(r["document"])) for r in rows}

    def set_mark(self, tracker: str, subject: str, mark: Mark) -> None:
        """Write down how far a tracker was brought for a subject."""
        with self._file.transaction():
            self._file.write(
                "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", [tracker, subject, mark.run_id, dump(mark.document)]
            )

    def void_marks(self, tracker: str) -> int:
        """Forget what a tracker has been told, but not of what; return how many marks there were."""
        with self._file.transaction():
            return self._file.write("UPDATE mark SET run_id = NULL, document = '{}' WHERE tracker = ?", [tracker])

    def subject_of_run(self, run_id: str) -> str | None:
        """The subject a tracker's run shows; None: no run of ours."""
        row = self._file.row("SELECT subject FROM mark WHERE run_id = ?", [run_id])
        return None if row is None else row["subject"]
