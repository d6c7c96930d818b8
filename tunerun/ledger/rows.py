"""Converts rows of the ledger's tables to records, after checking their checksums; reads leniently."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from tunerun import example_json
from tunerun.errors import LedgerError
from tunerun.examples import ExampleSet
from tunerun.job import (
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    Snapshot,
    TrainedOn,
    TunedModel,
)
from tunerun.ledger.checksums import is_whole, is_whole_snapshot
from tunerun.ledger.records import BaselineRecord, JobRecord, Opening, StoredObject, SweepRecord, TrialRecord
from tunerun.stored import read_stored, section

_TUNED_MODELS = "tuned_models"
"""The folder of adapters in a runs folder; absolute locations of formats 1 and 2 are made relative to it."""


def dump(value: object) -> str:
    """Return a value as the JSON text that the ledger stores."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def load(text: str) -> Any:
    """Return the value of a stored JSON text.

    Raises:
        LedgerError: the text is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise LedgerError(
            "the ledger is damaged: a cell that should hold JSON does not; the file was not changed: restore it from "
            "a backup, or choose another paths.runs"
        ) from error


def state_of(text: str) -> JobState:
    """Return a stored state; STOPPED for a state that only a later version has."""
    try:
        return JobState(text)
    except ValueError:
        return JobState.STOPPED  # final, so that this version neither watches such a job nor starts another one


class RowReader:
    """Converts rows to records.

    Args:
        ledger: the ledger's file; locations of adapters are relative to its folder.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._runs = ledger.parent.absolute()

    def check(self, table: str, row: sqlite3.Row) -> sqlite3.Row:
        """Check a row, whose last column is its checksum, and return it.

        Args:
            table: the row's, for the message.
            row: all of its columns.

        Raises:
            LedgerError: its bytes have changed since it was written.
        """
        if not (is_whole_snapshot if table == "snapshot" else is_whole)(row):
            raise self._damaged(table)
        return row

    def _damaged(self, table: str) -> LedgerError:
        return LedgerError(
            f"{self._ledger}: the ledger is damaged: bytes of its table {table!r} have changed on the disk since they "
            "were written; the file was left as it is: restore it from a backup, or choose another paths.runs"
        )

    def sweep(self, row: sqlite3.Row) -> SweepRecord:
        """Convert a row to a frozen plan."""
        self.check("sweep", row)
        return SweepRecord(row["id"], row["experiment"], row["created_at"], StoredObject(row["document"], load))

    def trial(self, row: sqlite3.Row) -> TrialRecord:
        """Convert a row to a frozen trial; its config and ingredients are parsed on first access."""
        self.check("trial", row)
        return TrialRecord(
            number=row["number"],
            key=row["key"],
            baselines=tuple(load(row["baselines"])),
            asked=row["asked"],
            training=row["training"],
            held_out=load(row["held_out"]),
            tokens=row["tokens"],
            steps=row["steps"],
            overrides=load(row["overrides"]),
            config=StoredObject(row["config"], load),
            ingredients=StoredObject(row["ingredients"], load),
        )

    def example_set(self, row: sqlite3.Row) -> ExampleSet:
        """Convert a row to a set of examples."""
        self.check("example_set", row)
        return ExampleSet(row["digest"], row["source"], tuple(map(example_json.from_list, load(row["examples"]))))

    def snapshot(self, row: sqlite3.Row) -> Snapshot:
        """Convert a row to a point of a loss curve."""
        self.check("snapshot", row)
        return Snapshot(row["step"], row["epoch"], row["mean_loss"], row["compute_time"])

    def epoch_loss(self, row: sqlite3.Row) -> EpochLoss:
        """Convert a row to the validation loss after an epoch."""
        self.check("epoch_loss", row)
        return EpochLoss(row["epoch"], row["loss"])

    def baseline(self, row: sqlite3.Row) -> BaselineRecord:
        """Convert a row to a baseline of a sweep."""
        self.check("baseline", row)
        return BaselineRecord(row["subject"], row["name"], row["kind"], StoredObject(row["document"], load))

    def answers(self, row: sqlite3.Row) -> tuple[tuple[Any, ...], float]:
        """Convert a row to answers and the time at which they were recorded.

        Raises:
            LedgerError: the row is damaged.
        """
        names = ("subject", "held_out", "asked", "created_at", "answers_checksum", "checksum")
        if not (is_whole([row[name] for name in names]) and is_whole((row["answers"], row["answers_checksum"]))):
            raise self._damaged("answers")
        return tuple(load(row["answers"])), row["created_at"]

    def some_answers(self, row: sqlite3.Row) -> tuple[int, list[Any]]:
        """Convert a row to a part of the answers, and the position of its first one."""
        self.check("some_answers", row)
        return row["start"], load(row["answers"])

    def opening(self, row: sqlite3.Row) -> Opening:
        """Convert a row to an opening of a test set."""
        self.check("opening", row)
        return Opening(row["sweep"], row["opened_at"], tuple(load(row["points"])), tuple(load(row["held_out"])))

    def job(self, row: sqlite3.Row) -> JobRecord:
        """Convert a row to a job."""
        self.check("job", row)
        failure = None
        if row["failure"]:
            values = load(row["failure"])
            # A kind that only a later version has reads as CRASHED: unlike LOST, it is not tried again.
            kind = values.get("kind") if values.get("kind") in list(FailureKind) else FailureKind.CRASHED
            failure = Failure(FailureKind(kind), values.get("message", ""), values.get("traceback"))
        return JobRecord(
            id=row["id"],
            key=row["key"],
            attempt=row["attempt"],
            state=state_of(row["state"]),
            ref=read_stored(JobRef, load(row["reference"])) if row["reference"] else None,
            metrics=load(row["metrics"]),
            tuned_model=self._tuned_model(load(row["tuned_model"])) if row["tuned_model"] else None,
            failure=failure,
            created_at=row["created_at"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            sweep=row["sweep"],
            tuned_model_id=row["tuned_model_id"],
            trained_on=read_stored(TrainedOn, load(row["trained_on"])) if row["trained_on"] else None,
        )

    def _tuned_model(self, values: Mapping[str, Any]) -> TunedModel:
        model = read_stored(BaseModelRef, section(values, "model"))
        location = str(self._runs / values["folder"]) if "folder" in values else values.get("location", "")
        checkpoints = tuple(read_stored(Checkpoint, each) for each in values.get("checkpoints", ()))
        return read_stored(TunedModel, values, model=model, location=location, checkpoints=checkpoints)

    def stored_tuned_model(self, tuned: TunedModel) -> str:
        """Return a tuned model as JSON, with its adapter's location relative to the runs folder."""
        # The folder may be moved; and a copy of a project must use its own adapters, not those of the original.
        values: dict[str, Any] = {
            "name": tuned.name,
            "model": {name: value for name, value in vars(tuned.model).items() if value is not None},
            "weights": tuned.weights,
        }
        if tuned.checkpoints:
            values["checkpoints"] = [vars(each) for each in tuned.checkpoints]
        place = PurePath(tuned.location)
        if place.is_absolute() and place.is_relative_to(self._runs):
            values["folder"] = place.relative_to(self._runs).as_posix()
        else:
            values["location"] = tuned.location
        return dump(values)


def with_relative_location(tuned_model: str) -> str:
    """Return a tuned model of formats 1 and 2 with its adapter's location made relative to the runs folder."""
    values = json.loads(tuned_model)
    place = PurePath(str(values.get("location", "")))
    if place.is_absolute() and place.parent.name == _TUNED_MODELS:
        del values["location"]
        values["folder"] = f"{_TUNED_MODELS}/{place.name}"
    return dump(values)
