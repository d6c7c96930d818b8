"""Changes rows of a ledger with SQL, and computes their checksums again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tunerun.ledger import FILE_NAME
from tunerun.ledger.checksums import row_checksum, snapshot_checksum


def changed(runs: Path, table: str, where: str = "true", **columns: str) -> None:
    """Set columns of the rows of a table to SQL expressions."""
    connection = sqlite3.connect(runs / FILE_NAME)
    with connection:
        for name, value in columns.items():
            connection.execute(f"UPDATE {table} SET {name} = {value} WHERE {where}")
        key = "rowid" if table not in ("snapshot", "epoch_loss") else None
        seal = snapshot_checksum if table == "snapshot" else row_checksum
        for row in connection.execute(f"SELECT {key or '0'}, * FROM {table}").fetchall():
            rowid, cells, old = row[0], row[1:-1], row[-1]
            condition, values = ("rowid = ?", [rowid]) if key else ("checksum = ? AND job = ?", [old, cells[0]])
            connection.execute(f"UPDATE {table} SET checksum = ? WHERE {condition}", [seal(*cells), *values])
    connection.close()
