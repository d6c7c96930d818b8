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
"""Config that is composed on this machine rather than taken from the record: two sections, and the group of YAML files
with a machine's own settings."""


@dataclass(frozen=True)
class RerunResult:
    """The result of a rerun.

    Attributes:
        result: of the sweep that ran.
        verification: the comparison with the record; None: it was edited, so it is a new experiment.
        notes: known differences from the record, and what could not be determined, one line each.
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
    """Run a sweep or a trial again from its record, and compare the results with the record.

    Args:
        reference: an MLflow run id, a sweep's id, a tuned model's name, or a bundle's file.
        overrides: where things are on this machine, such as `paths.runs=...`, `tracking.uri=...`, `model.source=...`.
        edits: values that differ from the record, such as `seed=2`; they make a new experiment with the record as its
            parent.
        data: files of rows to read instead of the recorded examples.
        fresh: whether to train again what an earlier rerun trained.
        config_dir: directories of YAML files that are searched before all others.
        progress: as in `tunerun.run`.

    Returns:
        The result with its verification.

    Raises:
        InputError: something that the rerun needs is missing or differs from the record; nothing was started.
    """
    request = request_of(overrides, edits, data, config_dir, fresh=fresh)
    with open_record(reference, runs=Path(request.paths.runs), tracking=request.tracking) as record:
        prepared = prepare(record, request)
        prepared.plan.check()
        prepared.begin()  # after all checks: a rerun that is refused leaves no folder
        result = run(prepared.plan, progress=progress, command="tunerun.rerun")
        verification = None if prepared.is_new else verified(record, prepared)
        return RerunResult(result, verification, prepared.notes, prepared.plan.runs)


def request_of(
    overrides: Sequence[str],
    edits: Sequence[str],
    data: Sequence[str | Path],
    config_dir: ConfigDirectories,
    *,
    fresh: bool,
) -> RerunRequest:
    """Build the request of a command: paths and tracking come from this machine's config, the rest from the record.

    Args:
        overrides, edits, data, config_dir, fresh: as in `rerun`.

    Raises:
        ConfigError: the config cannot be composed, or a rerun does not accept an override.
    """
    # Hydra's overrides may start with `+` (add), `++` (add or replace) or `~` (delete).
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


def verified(record: OpenRecord, prepared: Rerun) -> Verification:
    """Compare the results of a rerun with its record.

    Args:
        record: open.
        prepared: the rerun, after it ran; its ledger is read again.
    """
    with Ledger.open_read_only(prepared.plan.ledger_path) as ledger:
        sweep = next(each for each in ledger.sweeps(prepared.plan.name) if each.id == prepared.plan.sweep)
        return compare(record, OpenRecord(ledger, sweep, None, str(prepared.plan.runs)))
