"""Tuned models and their jobs, with training data and curves, and tables uploaded on the page, in the database.

Guarantees, whenever the process is killed:

1. A tuned model whose name was sent to a client exists, with its examples, its owner's permission and its operation.
2. A tuned model is CREATING until its job has ended; those that are CREATING when the service starts are queued again.
3. Each step of a loss curve, and each epoch, is stored once. The first value wins, so a curve never becomes shorter.
4. The folder of a deleted tuned model stays recorded until it is removed.
5. Order comes from sequence numbers, not from the clock, which may be set back; no event has a time before an earlier
   event's.

Safe to use from any thread.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tunerun.examples import Example, Turn
from tunerun.job import Snapshot
from tunerun.service.core import permissions
from tunerun.service.core.database import ServiceDatabase, marks
from tunerun.service.core.records import EpochRow, FileRow, Listing, ModelState, PermissionRow, Role, TunedModelRow

_INSERTED = [f.name for f in fields(TunedModelRow) if f.name != "number"]
_BOOLEANS = ("is_cancelling", "can_answer", "keeps_epochs", "is_paused")
_AS_JSON = ("reader_projects", "metadata", "notes")


class State:
    """The stored state of the service. Every method may raise LedgerError.

    Args:
        folder: the folder of all stored state; created if it does not exist.

    Attributes:
        database: for the tables that other modules own.
        permissions: who may use the tuned models.

    Raises:
        LedgerError: the database belongs to another program or a newer tunerun, is damaged, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = ServiceDatabase(folder)
        self.permissions = permissions.Permissions(self.database)

    def close(self) -> None:
        """Close the connection."""
        self.database.close()

    # Tuned models

    def create(
        self,
        model: TunedModelRow,
        examples: Sequence[Example],
        owner: PermissionRow,
        held_out: Sequence[Example] = (),
    ) -> TunedModelRow | None:
        """Insert a tuned model with its examples and its owner's permission in one transaction.

        Args:
            model: the row; its number is assigned here.
            examples: the training examples.
            owner: the owner's permission.
            held_out: the held-out examples.

        Returns:
            The stored row; None: the id is taken.
        """
        values = asdict(model)
        values |= {name: json.dumps(values[name], ensure_ascii=False) for name in _AS_JSON}
        texts = [json.dumps([*map(_written, each)], ensure_ascii=False) for each in (examples, held_out)]
        # One transaction: the queue, in its own thread, never sees a job without its examples.
        with self.database.transaction() as file:
            added = file.write(
                f"INSERT OR IGNORE INTO tuned_model ({', '.join(_INSERTED)}) VALUES ({marks(_INSERTED)})",
                [values[name] for name in _INSERTED],
            )
            if not added:
                return None
            file.write("INSERT INTO training_data (key, examples, validation) VALUES (?, ?, ?)", [model.key, *texts])
            permissions.insert(file, owner)
            return _tuned_model(file.rows("SELECT * FROM tuned_model WHERE id = ?", [model.id])[0])

    def tuned_model(self, identifier: str) -> TunedModelRow | None:
        """Return a tuned model by its id; None: it does not exist."""
        rows = self.database.rows("SELECT * FROM tuned_model WHERE id = ?", [identifier])
        return _tuned_model(rows[0]) if rows else None

    def of_key(self, beginning: str) -> TunedModelRow | None:
        """Return the tuned model whose key has a prefix; None: no key has it, or several do."""
        query = "SELECT * FROM tuned_model WHERE key >= ? AND key < ? LIMIT 2"  # a range, which can use the index
        rows = self.database.rows(query, [beginning, f"{beginning}~"])  # "~" sorts after all characters of a key
        return _tuned_model(rows[0]) if len(rows) == 1 else None

    def tuned_models(self, listing: Listing, size: int) -> list[TunedModelRow]:
        """Return up to `size` tuned models that match a query, in its order; a negative size: all."""
        allowed = [role for role in Role if role.includes(listing.role)]
        who = "grantee = 'EVERYONE'" if listing.everyone else "email = ?"
        where = f"id IN (SELECT tuned_model FROM permission WHERE {who} AND role IN ({marks(allowed)}))"
        parameters: list[object] = [*([] if listing.everyone else [listing.reader]), *allowed]
        for word in listing.words:
            # `casefold` is Python's: SQLite's own LIKE and lower() ignore the case of ASCII letters only.
            where += " AND instr(casefold(display_name || ' ' || description), ?) > 0"
            parameters.append(word.casefold())
        if listing.state is not None:
            where += " AND state = ?"
            parameters.append(listing.state)
        if listing.after:
            where += f" AND number {'<' if listing.newest_first else '>'} ?"
            parameters.append(listing.after)
        if listing.noted:
            where += " AND EXISTS (SELECT 1 FROM json_each(notes) WHERE key = ?)"
            parameters.append(listing.noted)
        if listing.metadata is None:
            where += " AND metadata = '{}'"
        for name, value in (listing.metadata or {}).items():
            # Not `json_extract`: its paths cannot name a key that contains a quote.
            where += " AND EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)"
            parameters += [name, value]
        order = "number DESC" if listing.newest_first else "number"
        rows = self.database.rows(
            f"SELECT * FROM tuned_model WHERE {where} ORDER BY {order} LIMIT ?", [*parameters, size]
        )
        return [_tuned_model(row) for row in rows]

    def waiting(self, base_models: Sequence[str], running: Sequence[str], size: int) -> list[TunedModelRow]:
        """Return the next jobs to train, in the order of creation.

        Args:
            base_models: names of the base models that can be tuned now.
            running: keys of jobs to exclude.
            size: the most to return; negative: all.
        """
        rows = self.database.rows(
            "SELECT * FROM tuned_model WHERE state = ? AND NOT is_cancelling AND NOT is_paused "
            f"AND base_model IN ({marks(base_models)}) AND key NOT IN ({marks(running)}) ORDER BY number LIMIT ?",
            [ModelState.CREATING, *base_models, *running, size],
        )
        return [_tuned_model(row) for row in rows]

    def cancelled(self, running: Sequence[str]) -> list[TunedModelRow]:
        """Return the jobs to cancel that were not submitted to the backend.

        Args:
            running: keys of the submitted jobs.
        """
        rows = self.database.rows(
            f"SELECT * FROM tuned_model WHERE state = ? AND is_cancelling AND key NOT IN ({marks(running)})",
            [ModelState.CREATING, *running],
        )
        return [_tuned_model(row) for row in rows]

    def is_source(self, folder: str) -> bool:
        """Whether an unfinished job starts from the adapter in a folder."""
        query = "SELECT 1 FROM tuned_model WHERE state = ? AND source_folder = ? LIMIT 1"
        return bool(self.database.rows(query, [ModelState.CREATING, folder]))

    def counts(self) -> dict[ModelState, int]:
        """Return the number of tuned models in each state."""
        rows = self.database.rows("SELECT state, count(*) AS count FROM tuned_model GROUP BY state")
        return dict.fromkeys(ModelState, 0) | {ModelState(row["state"]): row["count"] for row in rows}

    def examples(self, key: str) -> tuple[Example, ...]:
        """Return the training examples of a tuned model."""
        return self._examples("examples", key)

    def held_out(self, key: str) -> tuple[Example, ...]:
        """Return the held-out examples of a tuned model."""
        return self._examples("validation", key)

    def _examples(self, column: str, key: str) -> tuple[Example, ...]:
        rows = self.database.rows(f"SELECT {column} AS pairs FROM training_data WHERE key = ?", [key])
        examples = []
        for pair in json.loads(rows[0]["pairs"]) if rows else ():
            text_input, output, system, earlier = pair if len(pair) > 2 else (*pair, "", ())  # see `_written`
            examples.append(Example(text_input, output, system, tuple(Turn(*turn) for turn in earlier)))
        return tuple(examples)

    def snapshots(self, keys: Sequence[str]) -> dict[str, list[Snapshot]]:
        """Return the loss curves of tuned models by key, each in the order of steps."""
        rows = self.database.rows(f"SELECT * FROM snapshot WHERE key IN ({marks(keys)}) ORDER BY key, step", keys)
        curves: dict[str, list[Snapshot]] = {key: [] for key in keys}
        for row in rows:
            curves[row["key"]].append(_snapshot(row))
        return curves

    def steps(self, key: str, before: int, size: int) -> list[Snapshot]:
        """Return a part of a loss curve, newest first.

        Args:
            key: the key of the tuned model.
            before: return only earlier steps than this one.
            size: the most steps to return.
        """
        rows = self.database.rows(
            "SELECT * FROM snapshot WHERE key = ? AND step < ? ORDER BY step DESC LIMIT ?", [key, before, size]
        )
        return [_snapshot(row) for row in rows]

    def epochs(self, key: str) -> list[EpochRow]:
        """Return the state of a job after each epoch, by epoch."""
        return [
            EpochRow(**row) for row in self.database.rows("SELECT * FROM epoch WHERE key = ? ORDER BY epoch", [key])
        ]

    def change(self, identifier: str, values: Mapping[str, Any]) -> None:
        """Update columns of a tuned model, and its `updated_at`."""
        # `max`, here and below: the clock may have been set back, and no time may be before an earlier event's.
        values = {name: json.dumps(value) if name in _AS_JSON else value for name, value in values.items()}
        self.database.write(
            f"UPDATE tuned_model SET {', '.join(f'{name} = ?' for name in values)}{',' if values else ''} "
            "updated_at = max(updated_at, ?) WHERE id = ?",
            [*values.values(), time.time(), identifier],
        )

    def delete(self, identifier: str) -> None:
        """Delete a tuned model; its folder stays in `leftovers` until `cleared` is called."""
        # Examples, curve and permissions are deleted with the row, by their foreign keys.
        with self.database.transaction() as file:
            file.write("INSERT INTO leftover SELECT folder FROM tuned_model WHERE id = ?", [identifier])
            file.write("DELETE FROM tuned_model WHERE id = ?", [identifier])

    def leftovers(self) -> list[str]:
        """Return the folders of deleted tuned models that are not removed yet."""
        return [row["folder"] for row in self.database.rows("SELECT folder FROM leftover")]

    def cleared(self, folder: str) -> None:
        """Record that the folder of a deleted tuned model was removed."""
        self.database.write("DELETE FROM leftover WHERE folder = ?", [folder])

    # Jobs

    def request_cancel(self, identifier: str) -> None:
        """Record a request to cancel a job; no effect if it has ended."""
        self.database.write(
            "UPDATE tuned_model SET is_cancelling = 1 WHERE id = ? AND state = ?", [identifier, ModelState.CREATING]
        )

    def set_paused(self, identifier: str, *, is_paused: bool) -> None:
        """Record whether a job is paused; no effect if it has ended."""
        self.database.write(
            "UPDATE tuned_model SET is_paused = ?, updated_at = max(updated_at, ?) "
            "WHERE id = ? AND state = ? AND is_paused != ?",
            [is_paused, time.time(), identifier, ModelState.CREATING, is_paused],
        )

    def interrupted(self) -> None:
        """Mark all unfinished jobs as not running, after the process that ran them has ended."""
        self.database.write("UPDATE tuned_model SET started_at = NULL WHERE state = ?", [ModelState.CREATING])

    def started(self, key: str) -> None:
        """Record that a job is running; keeps an earlier start time."""
        self.database.write(
            "UPDATE tuned_model SET started_at = coalesce(started_at, max(created_at, ?)) WHERE key = ?",
            [time.time(), key],
        )

    def stopped(self, key: str) -> None:
        """Record that a job is no longer running, and will be resumed."""
        self.database.write("UPDATE tuned_model SET started_at = NULL WHERE key = ?", [key])

    def record(self, key: str, snapshots: Sequence[Snapshot], epochs: Sequence[EpochRow] = ()) -> None:
        """Append steps to a curve, and states after epochs; no effect if the tuned model was deleted.

        Args:
            key: the key of the tuned model.
            snapshots: the steps; those that are stored already are ignored: a resumed job may repeat some.
            epochs: the states after epochs; those that are stored already are ignored.
        """
        with self.database.transaction() as file:
            # Checked in the transaction: a step of a deleted job would violate its foreign key.
            if file.rows("SELECT 1 FROM tuned_model WHERE key = ?", [key]):
                file.write_many(
                    "INSERT OR IGNORE INTO snapshot VALUES (?, ?, ?, ?, ?)",
                    ((key, s.step, s.epoch, s.mean_loss, s.compute_time) for s in snapshots),
                )
                file.write_many(
                    "INSERT OR IGNORE INTO epoch VALUES (?, ?, ?, ?, ?, ?)",
                    ((key, e.epoch, e.step, e.validation_loss, e.folder, e.created_at) for e in epochs),
                )

    def finish(
        self,
        key: str,
        state: ModelState,
        *,
        can_answer: bool,
        error: tuple[int, str] | None = None,
        losses: tuple[float | None, float | None] = (None, None),
        trained_tokens: int | None = None,
    ) -> None:
        """Record how a job ended; no effect if it has already ended.

        Args:
            key: the key of the tuned model.
            state: ACTIVE or FAILED.
            can_answer: whether the tuned model can be called.
            error: number of a `Code` and message, if it failed.
            losses: losses of the tuned model and of its base model on the held-out examples, in nats per output token.
            trained_tokens: number of tokens trained on; None: not counted.
        """
        code, message = error if error is not None else (None, None)
        now = time.time()
        self.database.write(
            "UPDATE tuned_model SET state = ?, can_answer = ?, is_paused = 0, error_code = ?, error_message = ?, "
            "validation_loss = ?, base_validation_loss = ?, trained_tokens = ?, "
            "completed_at = max(?, coalesce(started_at, created_at)), updated_at = max(?, updated_at) "
            "WHERE key = ? AND state = ?",
            [state, can_answer, code, message, *losses, trained_tokens, now, now, key, ModelState.CREATING],
        )

    # Tables that were uploaded on the page

    def add_file(self, file: FileRow, keep: int) -> None:
        """Store an uploaded table, and delete all but the newest ones of its owner.

        Args:
            file: the table.
            keep: how many of the owner's tables to keep.
        """
        with self.database.transaction() as database:
            database.write(
                "INSERT INTO file VALUES (?, ?, ?, ?, ?)", [file.id, file.owner, file.name, file.content, time.time()]
            )
            database.write(
                "DELETE FROM file WHERE owner = ? AND id NOT IN "
                "(SELECT id FROM file WHERE owner = ? ORDER BY rowid DESC LIMIT ?)",
                [file.owner, file.owner, keep],
            )

    def file(self, identifier: str, owner: str) -> FileRow | None:
        """Return a user's uploaded table; None: it does not exist."""
        rows = self.database.rows("SELECT * FROM file WHERE id = ? AND owner = ?", [identifier, owner])
        return FileRow(*(rows[0][name] for name in ("id", "owner", "name", "content"))) if rows else None


def _snapshot(row: sqlite3.Row) -> Snapshot:
    return Snapshot(row["step"], row["epoch"], row["mean_loss"], row["compute_time"])


def _written(example: Example) -> list[Any]:
    """Return an example as a JSON value; a single turn is a pair, the only form that earlier versions wrote."""
    pair = [example.text_input, example.output]
    if not (example.system or example.earlier):
        return pair
    return [*pair, example.system, [[turn.text_input, turn.output, turn.is_learned] for turn in example.earlier]]


def _tuned_model(row: sqlite3.Row) -> TunedModelRow:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over its values
    values |= {name: json.loads(values[name]) for name in _AS_JSON}
    values["reader_projects"] = tuple(values["reader_projects"])
    values["state"] = ModelState(values["state"])
    return TunedModelRow(**values | {name: bool(values[name]) for name in _BOOLEANS})
