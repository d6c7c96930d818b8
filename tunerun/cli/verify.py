"""`tunerun verify`: checks a bundle's files, and whether its trials give the recorded results again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError, MismatchError, RecordError
from tunerun.files import temporary_folder

if TYPE_CHECKING:
    from tunerun.record.verification import Verification


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="File that `tunerun bundle` wrote.")],
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    trial: Annotated[
        int | None,
        typer.Option("--trial", metavar="N", help="Number of the only trial to run again. All trials if not given."),
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="Check the files alone, and run nothing.")] = False,
    json_: Json = False,
) -> None:
    """Check a bundle's files, run its trials again, and compare.

    The trials run in a temporary folder. Exit code 0 if everything is equal, 1 if something differs.
    """
    from tunerun.cli import tables
    from tunerun.cli.rerun import print_checks
    from tunerun.record.bundle.archive import check_files

    checked = check_files(bundle)
    document: dict[str, Any] = {"files": {"count": checked.files, "problems": list(checked.problems)}}
    if not json_:
        for problem in checked.problems:
            tables.out.print(f"[red]differs[/]  {tables.plain(problem)}", soft_wrap=True)
        if not checked.problems:
            tables.out.print(f"[green]same[/]  {checked.files} files, {checked.bytes / 1e6:.1f} MB, by their SHA-256")

    is_equal = not checked.problems
    # In a bundle whose files have changed, the recorded results may have changed too.
    if is_equal and not files:
        try:
            verification = _run_again(bundle, trial, overrides or [], config_dir)
        except (MismatchError, RecordError) as error:
            document["verification"] = {"equal": False, "problems": list(error.problems)}
            sys.stderr.writelines(f"differs: {problem}\n" for problem in error.problems)
            is_equal = False
        else:
            document["verification"] = verification.to_json()
            is_equal = verification.is_equal
            if not json_:
                print_checks(verification)

    if json_:
        print_json({"bundle": str(bundle), "equal": is_equal, **document})
    elif is_equal:
        tables.out.print("The files are unchanged." if files else "The results are reproduced.")
    raise typer.Exit(0 if is_equal else 1)


def _run_again(bundle: Path, trial: int | None, overrides: list[str], config_dir: list[str] | None) -> Verification:
    """Run the trials of a bundle again, or one of them, in a temporary folder, and compare the results."""
    from tunerun.cli.rerun import run_again
    from tunerun.record import open_record
    from tunerun.record.running import request_of, verified

    # The runs folder is temporary, so runs in MLflow would name models that no longer exist.
    request = request_of([*overrides, "tracking=none"], [], [], config_dir, fresh=False)
    with temporary_folder("verify") as folder, open_record(str(bundle), runs=folder) as record:
        numbers = [each.number for each in record.trials]
        if trial is not None and trial not in numbers:
            raise InputError(f"--trial {trial}: {record.sweep.id} has the trials 0 to {numbers[-1]}")
        named = replace(record, number=trial)
        here = replace(request, paths=request.paths.model_copy(update={"runs": str(folder)}))
        # Only the verdict of the whole sweep needs baselines, and these take two thirds of the time of one trial.
        made, _ = run_again(named, here, with_baselines=trial is None, is_kept=False)
        return verified(named, made)
