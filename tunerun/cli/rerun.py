"""`tunerun rerun`: runs a sweep or a trial again from its record, and compares the results."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError, MismatchError, RecordError

if TYPE_CHECKING:
    from tunerun.record import OpenRecord
    from tunerun.record.rerun import Rerun, RerunRequest
    from tunerun.record.verification import Verification
    from tunerun.runner import SweepResult


def rerun(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    run_: Annotated[
        str,
        typer.Option(
            "--run",
            metavar="RUN",
            help="What to run again: sweep id, experiment name (its newest sweep), tunedModels/NAME, MLflow run id or "
            "bundle file. Required.",
        ),
    ] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Exit with 1 if the results differ.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the config, which makes it a new experiment with the run as its parent; may be repeated.",
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="File of rows to read, instead of the recorded examples; may be repeated.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train again, even if an earlier rerun has trained it.")
    ] = False,
    json_: Json = False,
) -> None:
    """Run a sweep or a trial again from its record, and compare.

    The trials have the same keys, and the results the same bits where that is possible. Overrides say where things are
    on this machine, such as paths.runs, tracking.uri or model.source.
    """
    from tunerun.cli import tables
    from tunerun.cli.run import print_mlflow_link, print_remaining
    from tunerun.record import open_record
    from tunerun.record.running import request_of, verified

    if not run_:
        raise InputError("--run is missing; give an MLflow run id, a sweep's id, tunedModels/NAME or a bundle's file")
    if verify and set_:
        raise InputError(
            "--verify: with --set it is a new experiment, so there are no results to compare with; remove one"
        )

    request = request_of(overrides or [], set_ or [], data or [], config_dir, fresh=fresh)
    runs = Path(request.paths.runs)
    try:
        with open_record(run_, runs=runs, tracking=request.tracking) as record:
            made, result = run_again(record, request)
            verification = None if made.is_new else verified(record, made)
            if json_:
                origin = made.plan.recorded.document
                checks = {} if verification is None else {"verification": verification.to_json()}
                print_json(
                    {**result.to_json(), **origin, "runs": str(made.plan.runs), "notes": list(made.notes), **checks}
                )
            else:
                tables.result_table(result)
                tables.result_sentence(result)
                tables.say(f"Runs folder: {made.plan.runs}")
                if verification is not None:
                    tables.say(f"Compared with {record.origin}:")
                    print_checks(verification)
                print_mlflow_link(result, overrides or [], config_dir, runs)
            print_remaining(result, sys.argv[1:])
    except (MismatchError, RecordError) as error:
        if not verify:
            raise
        # With --verify a record that cannot be repeated here is a result, "differs", and not a wrong command line.
        if json_:
            print_json({"verification": {"equal": False, "problems": list(error.problems)}})
        sys.stderr.writelines(f"differs: {problem}\n" for problem in error.problems)
        raise typer.Exit(1) from error

    is_equal = verification is None or verification.is_equal
    raise typer.Exit((0 if is_equal else 1) if verify else result.exit_code)


def run_again(
    record: OpenRecord, request: RerunRequest, *, with_baselines: bool = True, is_kept: bool = True
) -> tuple[Rerun, SweepResult]:
    """Plan a record again, print what differs, and run it with progress on stderr.

    Args:
        record: of a sweep or a trial.
        request: what differs on this machine, and edits.
        with_baselines: whether baselines are measured again, too.
        is_kept: whether the trained models remain after the command.

    Returns:
        The rerun, and the comparison of its trials.

    Raises:
        InputError: something that the rerun needs is missing; nothing was started.
        MismatchError: it would not repeat the record; nothing was started.
    """
    from tunerun.cli import tables
    from tunerun.cli.run import GARBAGE_THRESHOLD, run_planned
    from tunerun.cli.stages import Stages
    from tunerun.record.rerun import prepare

    tables.err.print(f"from {tables.plain(record.origin)}", soft_wrap=True)
    with Stages() as progress:
        made = prepare(record, request, progress)
    made = made if with_baselines else made.without_baselines()
    for text in made.notes:
        tables.note(text)
    made.plan.check()
    made.begin()  # after the check: a refused rerun writes nothing
    gc.set_threshold(GARBAGE_THRESHOLD)
    return made, run_planned(made.plan, sys.argv[1:], retry_failed=False, is_kept=is_kept)


def print_checks(verification: Verification) -> None:
    """Print one line for each trial, and one for the verdict."""
    from tunerun.cli import tables

    for check in verification.checks:
        mark = "[green]same[/]" if check.is_equal else "[red]differs[/]"
        mark = mark if check.is_compared else "[yellow]skipped[/]"
        tables.out.print(f"{mark}  {tables.plain(str(check))}", soft_wrap=True)
