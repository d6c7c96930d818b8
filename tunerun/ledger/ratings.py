"""Judgements, each stored once for all sweeps, so that nothing is judged and paid for twice.

The judgements of one subject's answers to a held-out set are among its answers as well, once all of them are there
(`rated_by`): that is what comparisons read, and what records hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tunerun.database import DatabaseFile
from tunerun.digest import digest
from tunerun.ledger.checksums import with_checksum
from tunerun.ledger.rows import RowReader, dump, load

RATED = "judge:"
"""Prefix of `asked` for a judge's replies about a subject's answers."""

_AT_ONCE = 500
"""Items of one query: before SQLite 3.32 a query takes 999 parameters (sqlite.org/limits)."""


def rated_by(judge: str, asked: str) -> str:
    """Return the `asked` part of the key for a judge's replies about a subject's answers.

    Args:
        judge: the judge's identity.
        asked: how the answers that it judged were obtained.
    """
    return RATED + digest([judge, asked])


class RatingTable:
    """The tables of judgements; `Ledger` inherits it, so that all tables share one connection."""

    _file: DatabaseFile
    _rows: RowReader

    def record_rating(
        self, judge: str, item: str, score: float | None, reason: str, *, usd: float = 0.0, sweep: str | None = None
    ) -> None:
        """Record a judgement of an item; one that is there already is kept.

        Args:
            judge: the judge's identity, a digest.
            item: the digest of what was judged.
            score: None: the reply could not be read.
            reason: the judge's own words.
            usd: its cost, in US dollars.
            sweep: the sweep that asked for it; None: it was restored from a record.
        """
        values = with_checksum(judge, item, score, reason, float(usd), sweep, time.time())
        with self._file.transaction():
            self._file.write("INSERT OR IGNORE INTO rating VALUES (?, ?, ?, ?, ?, ?, ?, ?)", list(values))

    def ratings(self, judge: str, items: Iterable[str]) -> dict[str, tuple[float | None, str]]:
        """Return score and reason of the items that a judge has judged, by item.

        Args:
            judge: the judge's identity.
            items: digests, as for `record_rating`.
        """
        wanted = list(dict.fromkeys(items))
        ratings: dict[str, tuple[float | None, str]] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            places = ", ".join("?" * len(some))
            rows = self._file.rows(f"SELECT * FROM rating WHERE judge = ? AND item IN ({places})", [judge, *some])
            for row in rows:
                self._rows.check("rating", row)
                ratings[row["item"]] = row["score"], row["reason"]
        return ratings

    def record_agreement(self, judge: str, sample: str, document: Mapping[str, Any]) -> None:
        """Record how well a judge agrees with a labelled sample; a later measurement replaces an earlier one.

        Args:
            judge: the judge's identity.
            sample: the digest of the sample's file.
            document: the measures of agreement, as JSON values.
        """
        values = with_checksum(judge, sample, dump(dict(document)))
        with self._file.transaction():
            self._file.write("INSERT OR REPLACE INTO agreement VALUES (?, ?, ?, ?)", list(values))

    def agreements(self, judges: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the agreements of these judges, by judge and sample."""
        agreements = {}
        for judge in judges:
            for row in self._file.rows("SELECT * FROM agreement WHERE judge = ?", [judge]):
                self._rows.check("agreement", row)
                agreements[row["judge"], row["sample"]] = load(row["document"])
        return agreements
