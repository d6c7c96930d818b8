"""Runs a record again in one call, and compares the results: `tunerun.rerun`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunerun.compose import ConfigDirectories, assignments, places
from tunerun.ledger import Ledger
from tunerun.record.rerun import Rerun, RerunRequest, prepare
from tunerun.record.sources import OpenRecord, open_record
from tunerun.record.verification import Verification, compare
from tunerun.runner import SweepResult, run
from tunerun.runner.progress import Progress

_COMPOSED = ("paths", "tracking", "local")
"""Sections that are composed from this machine's config, and not taken from the record."""


@dataclass(frozen=True)
class RerunResult:
    """What came of a rerun.

    Attributes:
        verification: the comparison with the record; None: it was edited, and is an experiment of its own.
        notes: what differs from the record beforehand, and what is not known of it, one line each.
        runs: the folder of its ledger and tuned models.
    """

    result: SweepResult
    verification: Verification | None
    notes: tuple[str, ...]
    runs: Path


def rerun(
    reference: str,
    overrides: Sequence[str] = (),
    *,
    edits: Sequence[str] = (),
    data: Sequence[str | Path] = (),
    fresh: bool = False,
    config_dir: ConfigDirectories = None,
    progress: Progress | Literal["auto"] | None = "auto",
) -> RerunResult:
    """Run a sweep or a trial again from its record, and compare what comes of it.

    Args:
        reference: an MLflow run id, a sweep's id, a tuned model's name, or a bundle's file.
        overrides: where things are on this machine, such as `paths.runs=...`, `tracking.uri=...`, `model.source=...`.
        edits: values that differ from the record, such as `seed=2`: a new experiment with the record as its parent.
        data: files of rows to read again, in the place of the recorded examples.
        fresh: train again what an earlier rerun has trained.
        config_dir: directories of YAML files that are searched before all others.
        progress: as for `tunerun.run`.

    Raises:
        InputError: what it needs is missing, or would not be the same; nothing was started.
    """
    request = request_of(overrides, edits, data, config_dir, fresh=fresh)
    with open_record(reference, runs=Path(request.paths.runs), tracking=request.tracking) as record:
        made = prepare(record, request)
        made.plan.check()
        made.begin()
        result = run(made.plan, progress=progress, command="tunerun.rerun")
        return RerunResult(result, None if made.is_new else verified(record, made), made.notes, made.runs)


def request_of(
    overrides: Sequence[str],
    edits: Sequence[str],
    data: Sequence[str | Path],
    config_dir: ConfigDirectories,
    *,
    fresh: bool,
) -> RerunRequest:
    """What a command asks for: paths and tracking of this machine's config, everything else for the record's.

    Raises:
        ConfigError: the config cannot be composed, or an override is not one that a rerun takes.
    """
    composed = [each for each in overrides if each.lstrip("+~").startswith(_COMPOSED)]
    paths, tracking = places(composed, config_dir)
    others = [each for each in overrides if each not in composed]
    return RerunRequest(
        paths,
        tracking,
        assignments(others, config_dir),
        assignments(edits, config_dir),
        [Path(each) for each in data],
        fresh,
    )


def verified(record: OpenRecord, made: Rerun) -> Verification:
    """What came of a rerun beside its record."""
    with Ledger.open_read_only(made.plan.ledger_path) as ledger:
        sweep = next(each for each in ledger.sweeps(made.plan.name) if each.id == made.plan.sweep)
        return compare(record, OpenRecord(ledger, sweep, None, str(made.runs)))
