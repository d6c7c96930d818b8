"""`tunerun run`: plans and runs experiments, and prints what is left to do."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.invocation import INTERRUPTED, command_line, leave_at_once, program_name
from tunerun.cli.options import UI_PORT, ConfigDir, Fresh, Json, Multirun, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import InputError, LimitError, TunerunError

if TYPE_CHECKING:
    from tunerun.planning import Plan
    from tunerun.runner import SweepResult


GARBAGE_THRESHOLD = 50_000
"""New objects between two garbage collections; Python's default of 700 takes a third of the time of 10,000 trials."""


def run(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    json_: Json = False,
    _multirun: Multirun = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Submit failed trials again.")] = False,
    fresh: Fresh = False,
) -> None:
    """Plan, run the trials that are not done, and compare all.

    The same command continues a sweep that was interrupted.
    """
    from tunerun.cli import tables
    from tunerun.cli.named_experiments import first_error, named_experiments

    gc.set_threshold(GARBAGE_THRESHOLD)
    experiments = named_experiments(overrides or (), config_dir)
    errors: list[TunerunError] = []
    # Several are all checked first: if one is wrong, nothing of any of them is submitted.
    for each in experiments if len(experiments) > 1 else ():
        try:
            made = each.plan(config_dir, fresh=fresh)
            with each.named():
                made.check(retry_failed=retry_failed)
        except (InputError, LimitError) as error:
            errors.append(error)
    if (refused := first_error(errors)) is not None:
        raise refused

    results = []
    for each in experiments:
        try:
            # Planned again: trials that an earlier experiment has just trained are done by now.
            made = each.plan(config_dir, fresh=fresh)
            with each.named():
                made.check(retry_failed=retry_failed)
                results.append(run_planned(made, each.arguments, retry_failed=retry_failed))
        except TunerunError as error:
            errors.append(error)  # the other experiments still run
            continue
        if not json_:
            tables.result_table(results[-1])
            print_mlflow_link(results[-1], overrides or [], config_dir, made.runs)
            tables.result_sentence(results[-1])
        print_remaining(results[-1], each.arguments)

    if json_ and results:
        documents = [result.to_json() for result in results]
        print_json({"experiments": documents} if len(experiments) > 1 else documents[0])
    elif len(experiments) > 1:
        tables.verdicts_table(results)
    if (failed := first_error(errors)) is not None:
        raise failed
    raise typer.Exit(max(result.exit_code for result in results))


def run_planned(made: Plan, arguments: list[str], *, retry_failed: bool, is_kept: bool = True) -> SweepResult:
    """Run one sweep, showing its progress; an interruption ends the program.

    Args:
        made: the plan.
        arguments: of the command that would run it alone, for the record.
        retry_failed: whether failed trials are submitted again.
        is_kept: whether its runs folder remains after the command, so that the same command can resume.

    Returns:
        The comparison of all trials of the sweep.
    """
    from tunerun.cli import tables
    from tunerun.cli.plan_tables import run_line
    from tunerun.runner import run as run_plan

    gc.freeze()  # the plan lives to the end; scanning ten thousand trials at each collection takes a second
    tables.warnings(made.warnings)
    run_line(made, retry_failed=retry_failed)
    command = command_line(arguments)
    try:
        with tables.progress_on_stderr() as progress:
            return run_plan(made, progress=progress, command=command, retry_failed=retry_failed)
    except KeyboardInterrupt:
        print_interrupted(made, is_kept=is_kept)
        leave_at_once(INTERRUPTED)


def print_interrupted(made: Plan, *, is_kept: bool) -> None:
    """Print how to resume after an interruption, and what happens to jobs at a service.

    Args:
        made: the plan that was interrupted.
        is_kept: as in `run_planned`.
    """
    from tunerun.cli import tables

    how, ended = "run the same command to continue", "`tunerun cancel` ends them"
    if not is_kept:
        how = "nothing is kept; the same command starts from the beginning"
        ended = "they are not recorded here any more: cancel them at the service"
    tables.err.print(f"\ninterrupted; {how}:", soft_wrap=True)
    # The whole command: where it names several experiments, the later ones have not run either.
    tables.err.print(f"  {tables.plain(command_line(sys.argv[1:]))}", soft_wrap=True)
    if any(trial.capabilities.survives_runner for trial in made.trials):
        tables.err.print(f"jobs that are under way at a service continue; {ended}", soft_wrap=True)


def print_faults(result: SweepResult) -> None:
    """Print a note for each tuned model of a sweep that is missing or damaged."""
    from tunerun.cli import tables

    for fault in result.faults:
        tables.note(fault)


def print_remaining(result: SweepResult, arguments: list[str]) -> None:
    """Print what is missing of a sweep and why, and the command that continues it.

    Args:
        result: of the sweep.
        arguments: of the command that would run it alone.
    """
    from tunerun.cli import tables

    print_faults(result)
    if result.stopped:
        tables.err.print(f"[red]stopped:[/] {tables.plain(result.stopped)}")
        tables.err.print(f"to continue: {tables.plain(command_line(arguments))}", soft_wrap=True)
    if result.tracking_problem:
        tables.note(result.tracking_problem)


def print_mlflow_link(result: SweepResult, overrides: list[str], config_dir: list[str] | None, runs: Path) -> None:
    """Print where MLflow shows a sweep: on the tracking server in use, or on the one that `tunerun ui` starts.

    Args:
        result: of the sweep.
        overrides, config_dir: of this command.
        runs: the sweep's runs folder, which is added to the command if the overrides that `ui` accepts lead elsewhere.
    """
    from tunerun.cli import tables
    from tunerun.compose import places

    if result.link and result.server:
        tables.out.print(f"The runs in MLflow: {result.server}/{result.link}")
    elif result.link:
        # `ui` composes no experiment: a runs folder that one sets, as debug=tiny does, has to be an override.
        ours = [o for o in overrides if o.startswith(("paths", "tracking", "local"))]
        if Path(places(ours, config_dir)[0].runs).absolute() != runs.absolute():
            ours.append(f"paths.runs={os.path.relpath(runs)}")
        directories = [part for each in config_dir or () for part in ("-cd", each)]
        command = f"{program_name()} {shlex.join(['ui', *directories, *ours])}"
        tables.out.print(f"To look at the runs: {command}   then open http://127.0.0.1:{UI_PORT}/{result.link}")
