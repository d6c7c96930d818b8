"""The commands, what they print, and their exit codes.

0: all trials succeeded, or there was nothing to do. 1: at least one failed. 2: the config, the examples or the command
line are wrong, and nothing was submitted. 3: a limit refused, and nothing was submitted. 130: interrupted, resumable.

Every import that costs time stands inside the command that needs it.
"""

from __future__ import annotations

import gc
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tunerun import __version__
from tunerun.cli import appendix, bundle, data, diff, export, promote, rerun, serve, verify
from tunerun.cli.options import ConfigDir, Fresh, Json, Multirun, Overrides, Runs, SweepId, SweepIds
from tunerun.cli.printing import print_json
from tunerun.errors import InputError, LimitError, TunerunError
from tunerun.files import lacks_descriptors, remove_temporary_folders

if TYPE_CHECKING:
    from tunerun.ledger import Ledger, Opening, SweepRecord
    from tunerun.planning import Plan
    from tunerun.runner import SweepResult
    from tunerun.schema import Experiment

INTERRUPTED = 130

app = typer.Typer(
    name="tunerun",
    help="One declarative experiment in, many supervised tuning jobs and one honest comparison out.",
    epilog="Overrides are Hydra's: tunerun run experiment=next_number hyperparameters.learning_rate=1e-3,5e-4",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    # A library's notice of a newer version, or a tracker's usage report, is not for the user's terminal.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("stamina").setLevel(logging.ERROR)  # a call that is made again is no news; the runner says more
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except TunerunError as error:
        sys.stderr.write(_problem_text(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if not lacks_descriptors(error):
            raise
        sys.stderr.write(
            f"error: {error}; raise the limit of open files (ulimit -n), then run the same command again\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        _leave_at_once(INTERRUPTED)


def _leave_at_once(code: int) -> NoReturn:
    """End without waiting for threads that wait for a service; what must be on disk is."""
    sys.stdout.flush()
    sys.stderr.flush()
    remove_temporary_folders()
    os._exit(code)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _problem_text(error: TunerunError) -> str:
    if not isinstance(error, InputError) or len(error.problems) == 1:
        return f"error: {error}\n"
    return f"{len(error.problems)} problems:\n" + "".join(f"  {problem}\n" for problem in error.problems)


def _program() -> str:
    """How this program is called here: by its name where the shell finds it, else by its path."""
    if Path(sys.argv[0]).name == "__main__.py":
        return "python -m tunerun"
    return "tunerun" if shutil.which("tunerun") else os.path.relpath(sys.argv[0])


@app.command()
def plan(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    json_: Json = False,
    _multirun: Multirun = False,
    fresh: Fresh = False,
) -> None:
    """Expand, check, and count; show what a run would do. Sends and writes nothing; exits as the run would refuse."""
    from tunerun.cli import tables
    from tunerun.cli.sweeps import first_error, named_experiments

    experiments = named_experiments(overrides or (), config_dir)
    errors: list[TunerunError] = []
    plans = []
    for each in experiments:
        try:
            made = each.plan(config_dir, fresh=fresh)
            plans.append(made)
            if not json_:
                tables.plan_table(made)
            with each.named():
                made.check()
        except (InputError, LimitError) as error:
            errors.append(error)
    if json_ and plans:
        documents = [made.to_json() for made in plans]
        print_json({"experiments": documents} if len(experiments) > 1 else documents[0])
    elif len(experiments) > 1:
        tables.plans_table(plans)
    if (refused := first_error(errors)) is not None:
        raise refused


@app.command()
def run(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    json_: Json = False,
    _multirun: Multirun = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Submit trials again that failed.")] = False,
    fresh: Fresh = False,
) -> None:
    """Plan, then run what is not done, and compare all trials. Resumes by itself."""
    from tunerun.cli import tables
    from tunerun.cli.sweeps import first_error, named_experiments

    gc.set_threshold(GARBAGE_THRESHOLD)
    experiments = named_experiments(overrides or (), config_dir)
    errors: list[TunerunError] = []
    for each in experiments if len(experiments) > 1 else ():
        try:  # nothing of any of them is submitted where one is wrong
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
            # Planned again: what one experiment has trained, the next one need not.
            made = each.plan(config_dir, fresh=fresh)
            with each.named():
                made.check(retry_failed=retry_failed)
                results.append(run_planned(made, each.arguments, retry_failed=retry_failed))
        except TunerunError as error:
            errors.append(error)  # the others run all the same
            continue
        if not json_:
            tables.result_table(results[-1])
            say_where_to_look(results[-1], overrides or [], config_dir, made.runs)
            tables.result_sentence(results[-1])
        say_what_is_left(results[-1], each.arguments)
    if json_ and results:
        documents = [result.to_json() for result in results]
        print_json({"experiments": documents} if len(experiments) > 1 else documents[0])
    elif len(experiments) > 1:
        tables.verdicts_table(results)
    if (failed := first_error(errors)) is not None:
        raise failed
    raise typer.Exit(max(result.exit_code for result in results))


def run_planned(made: Plan, arguments: list[str], *, retry_failed: bool, is_kept: bool = True) -> SweepResult:
    """Run one sweep with its progress; an interruption ends the program.

    Args:
        arguments: of the command that would run it alone, for the record.
        is_kept: whether its runs folder outlasts the command, so that the same command does what is missing.
    """
    from tunerun.cli import tables
    from tunerun.cli.progress import progress_on_stderr
    from tunerun.runner import run as run_plan

    gc.freeze()  # the plan stays to the end; looking through ten thousand trials again and again takes a second
    tables.warnings(made.warnings)
    tables.run_line(made, retry_failed=retry_failed)
    command = _command(arguments)
    try:
        with progress_on_stderr() as progress:
            return run_plan(made, progress=progress, command=command, retry_failed=retry_failed)
    except KeyboardInterrupt:
        say_interrupted(made, is_kept=is_kept)
        _leave_at_once(INTERRUPTED)


def say_interrupted(made: Plan, *, is_kept: bool) -> None:
    """Print what the same command would do now, and what becomes of jobs at a service."""
    from tunerun.cli import tables

    how = "run the same command to go on" if is_kept else "nothing is kept; the same command starts from the beginning"
    tables.err.print(f"\ninterrupted; {how}:", soft_wrap=True)
    tables.err.print(f"  {tables.plain(_command(sys.argv[1:]))}", soft_wrap=True)
    if any(trial.capabilities.survives_runner for trial in made.trials):
        ended = "`tunerun cancel` ends them" if is_kept else "they are not known here any more: end them there"
        tables.err.print(f"jobs that are under way at a service go on; {ended}", soft_wrap=True)


def _say_what_is_missing(result: SweepResult) -> None:
    from tunerun.cli import tables

    for fault in result.faults:
        tables.err.print(f"[yellow]note:[/] {tables.plain(fault)}", soft_wrap=True)


def say_what_is_left(result: SweepResult, arguments: list[str]) -> None:
    """Print what is missing of a sweep and why, and how to go on."""
    from tunerun.cli import tables

    _say_what_is_missing(result)

    if result.stopped:
        tables.err.print(f"[red]stopped:[/] {tables.plain(result.stopped)}")
        tables.err.print(f"to go on: {tables.plain(_command(arguments))}", soft_wrap=True)
    if result.tracking_problem:
        tables.err.print(f"[yellow]note:[/] {tables.plain(result.tracking_problem)}")


def _command(arguments: list[str]) -> str:
    """A command line of this program as a person can type it, without secrets."""
    from tunerun.redaction import redact

    return redact(f"{_program()} {shlex.join(arguments)}")


def say_where_to_look(result: SweepResult, overrides: list[str], config_dir: list[str] | None, runs: Path) -> None:
    """Print where MLflow shows a sweep: on the tracking server in use, or on the one that `tunerun ui` starts.

    Args:
        runs: the sweep's runs folder; the command names it where the overrides that `ui` takes lead to another one.
    """
    from tunerun.cli import tables
    from tunerun.compose import places

    if result.link and result.server:
        tables.out.print(f"The runs in MLflow: {result.server}/{result.link}")
    elif result.link:
        ours = [o for o in overrides if o.startswith(("paths", "tracking", "local"))]
        if Path(places(ours, config_dir)[0].runs).absolute() != runs.absolute():  # an experiment or debug=tiny sets it
            ours.append(f"paths.runs={os.path.relpath(runs)}")
        command = f"{_program()} {shlex.join(['ui', *(part for d in config_dir or () for part in ('-cd', d)), *ours])}"
        tables.out.print(f"To look at the runs: {command}   then open http://127.0.0.1:{UI_PORT}/{result.link}")


UI_PORT = 5000

GARBAGE_THRESHOLD = 50_000
"""New objects between two looks for garbage; Python's own 700 costs ten thousand trials a third of the time."""


@app.command()
def status(
    overrides: Overrides = None, config_dir: ConfigDir = None, sweep: SweepId = None, json_: Json = False
) -> None:
    """Show the state of the sweep that the overrides compose, or of the newest. Writes nothing."""
    from tunerun.cli import tables
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.locks import holder_of
    from tunerun.runner import states_of, unwatched_jobs

    with _chosen_sweep(overrides or [], config_dir, sweep) as (ledger, result):
        shown = result.verdict.sweep
        cache = cache_folder(places([], config_dir)[0].cache)
        unwatched, problem = unwatched_jobs(ledger, shown.id, cache=cache)
        if problem:
            tables.err.print(f"[yellow]note:[/] {tables.plain(problem)}; the ledger's own states follow")
        if json_:
            jobs = [{"trial": job.number, "state": job.state, "step": job.last_step} for job in unwatched]
            print_json({**result.to_json(), "unwatched": jobs})
            return
        sweeps = ledger.sweeps(shown.experiment)
        tables.sweeps_table([(each, states_of(ledger, each.id)) for each in sweeps])
        tables.result_table(result)
        if not result.verdict.is_complete:
            holder = holder_of(ledger.path.parent, shown.id)
            line = f"Being run by {holder}." if holder else f"Not running; to go on: {result.command}"
            tables.out.print(tables.plain(line), soft_wrap=True)
        for job in unwatched:
            tables.out.print(f"trial {job.number}: {job.state} at its service, step {job.last_step}; not recorded yet")
        tables.result_sentence(result)


@app.command()
def cancel(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepId = None,
    trial: Annotated[
        list[int] | None, typer.Option("--trial", help="Number of a trial; all, if none is given.")
    ] = None,
    json_: Json = False,
) -> None:
    """Cancel jobs of a sweep, whoever runs it: what is under way ends, what waits is not submitted."""
    from tunerun.cli import tables
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.job import JobState
    from tunerun.runner import cancel as cancel_trials

    with _chosen_sweep(overrides or [], config_dir, sweep, to_write=True) as (ledger, result):
        verdict = result.verdict
        # Also what has failed: a lost job may be about to be submitted again.
        numbers = trial or [t.record.number for t in verdict.trials if t.state is not JobState.SUCCEEDED]
        unknown = [n for n in numbers if not 0 <= n < len(verdict.trials)]
        if unknown:
            raise InputError(
                [f"--trial {n}: {verdict.sweep.id} has the trials 0 to {len(verdict.trials) - 1}" for n in unknown]
            )
        said = f"every trial of {verdict.sweep.id} has succeeded; nothing was cancelled"
        if numbers:
            cache = cache_folder(places([], config_dir)[0].cache)
            said = cancel_trials(ledger, verdict.sweep.id, numbers, cache=cache)
        if json_:
            print_json({"sweep": verdict.sweep.id, "trials": numbers, "done": said})
        else:
            tables.out.print(tables.plain(said))


@contextmanager
def _chosen_sweep(
    overrides: list[str],
    config_dir: list[str] | None,
    sweeps: str | list[str] | None,
    *,
    to_write: bool = False,
    as_frozen: bool = False,
    asks_judges: bool = False,
) -> Iterator[tuple[Ledger, SweepResult]]:
    """The ledger, and what its sweeps of these ids came to; else the one that the overrides compose; else the newest.

    Args:
        to_write: open the ledger for writing; else not a byte of its folder is changed.
        as_frozen: scored as the sweep was frozen; a composed experiment that is scored in another way is another sweep.
        asks_judges: ask them about what they have not judged yet, and write it down.
    """
    from tunerun.compose import compose_name, places
    from tunerun.engine.base_model import cache_folder
    from tunerun.errors import NotFoundError
    from tunerun.ledger import Ledger
    from tunerun.runner import result_of
    from tunerun.runner.selection import existing_ledger, listed, selected, sweep_of
    from tunerun.tracking import open_tracker

    paths, tracking = places(overrides, config_dir)
    ids = [sweeps] if isinstance(sweeps, str) else sweeps or []
    names_no_trial = all(o.startswith(("name=", "paths", "tracking", "local")) for o in overrides)
    composed = None if ids or names_no_trial else _composed(overrides, config_dir)
    name = None if ids else compose_name(overrides, config_dir)
    with ExitStack() as stack:
        path = existing_ledger(Path(paths.runs))
        ledger = stack.enter_context(Ledger(path, read_only=not to_write))
        known = ledger.sweeps(name)
        found = (
            selected(ledger, ids)
            if ids
            else sweep_of(composed, ledger, as_frozen=as_frozen)
            if composed
            else known[-1:]
        )
        if not found:
            wanted = composed.sweep if composed else name
            raise NotFoundError(
                f"{wanted or 'no sweep named'}: has not run, as far as {ledger.path} knows; "
                f"{listed(known)}; choose one with --sweep"
            )
        tracker, cache = open_tracker(tracking, Path(paths.runs)), cache_folder(paths.cache)
        # An experiment that is named says how it is scored, also another way than the sweep was frozen with.
        experiment = composed.experiment if composed and not as_frozen else None
        if asks_judges and _ask_judges(ledger, found, experiment) and not to_write:
            ledger = stack.enter_context(Ledger(path, read_only=True))  # the first one is a copy of how it was
        result = result_of(ledger, found, tracker, cache, experiment.evaluation if experiment else None)
        _say_what_is_missing(result)
        yield ledger, result


def _ask_judges(ledger: Ledger, sweeps: Sequence[SweepRecord], experiment: Experiment | None) -> bool:
    """Ask judges about answers of sweeps that they have not judged; whether anything may have been written.

    Args:
        ledger: may be open for reading alone; it is opened again for writing where a judge is asked.
        experiment: says how answers are scored, and the budget; None: as the first sweep was frozen.
    """
    from tunerun.cli import tables
    from tunerun.cli.progress import progress_on_stderr
    from tunerun.ledger import Ledger
    from tunerun.runner.judging import has_more_to_judge, judge_unattended, judges_of

    judges, max_usd = judges_of(ledger, sweeps, experiment)
    if not has_more_to_judge(ledger, sweeps, judges):
        return False
    with Ledger(ledger.path) as written, progress_on_stderr() as progress:
        problems = judge_unattended(written, sweeps, judges, max_usd=max_usd, progress=progress)
    for problem in problems:
        tables.err.print(f"[yellow]note:[/] {tables.plain(problem)}", soft_wrap=True)
    return True


def _composed(overrides: list[str], config_dir: list[str] | None) -> Plan:
    from tunerun.compose import load
    from tunerun.planning import plan as make_plan

    return make_plan(load(overrides, config_dir))


@app.command()
def compare(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepIds = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for report.html, results.* and plots."),
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="Open the test set for the advised point and all baselines; recorded.")
    ] = False,
    json_: Json = False,
) -> None:
    """Compare the trials of one or several sweeps that have run, on held-out examples; write the results down."""
    from tunerun.cli import tables
    from tunerun.comparison.renderers import write_files

    with _chosen_sweep(overrides or [], config_dir, sweep, to_write=final, as_frozen=final, asks_judges=True) as (
        ledger,
        result,
    ):
        earlier: Sequence[Opening] = ()
        if final:
            result, earlier = _opened(ledger, result, config_dir)
        if output is not None:
            for file in write_files(result.table, ledger, output):
                tables.err.print(f"wrote {file}")
        if json_:
            openings = [{"sweep": o.sweep, "at": o.opened_at, "trials": list(o.points)} for o in earlier]
            print_json({**result.to_json(), **({"opened_before": openings} if final else {})})
        else:
            tables.result_table(result)
            tables.earlier_openings(earlier, result.verdict)
            tables.result_sentence(result)


def _opened(ledger: Ledger, result: SweepResult, config_dir: list[str] | None) -> tuple[SweepResult, Sequence[Opening]]:
    """The comparison on the test set of a sweep, which is opened now; and when it was opened before."""
    from tunerun.cli.progress import progress_on_stderr
    from tunerun.compose import places
    from tunerun.engine.base_model import cache_folder
    from tunerun.runner.final import on_test_set, open_test

    sweep, *others = result.verdict.sweeps
    if others:
        raise InputError("--final: opens the test set of one sweep; name one with --sweep")
    with progress_on_stderr() as progress:
        earlier = open_test(ledger, sweep, cache=cache_folder(places([], config_dir)[0].cache), progress=progress)
    return on_test_set(ledger, result), earlier


@app.command()
def report(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    sweep: SweepIds = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else reports/SWEEP.html in paths.runs.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    json_: Json = False,
) -> None:
    """Write the comparison of one or several sweeps as one page that needs no network, and open it in a browser."""
    from tunerun.cli import tables
    from tunerun.cli.browser import open_in_browser
    from tunerun.comparison.renderers.report import write_page

    with _chosen_sweep(overrides or [], config_dir, sweep) as (ledger, result):
        file = write_page(result.table, ledger, output)
    is_open = open_ and not json_ and open_in_browser(file)
    if json_:
        print_json({"report": str(file)})
    else:
        tables.out.print(f"{'opened' if is_open else 'wrote'} {tables.plain(str(file))}", soft_wrap=True)


@app.command()
def predict(
    columns: Annotated[list[str] | None, typer.Argument(metavar="[COLUMN=VALUE]...", help="One row.")] = None,
    run_: Annotated[str, typer.Option("--run", help="MLflow run id, or tunedModels/NAME.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Rows: JSON, JSONL, CSV, TSV or Parquet.")] = None,
    runs: Runs = "runs",
    max_output_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Answer each line of standard input, behind the others.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="With --chat: the system message; training's if not given.")
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="With --chat: ask its base model.")] = False,
    json_: Json = False,
) -> None:
    """Call a tuned model with its own template, for rows or in a chat."""
    if not run_:
        raise InputError(
            "--run is missing; give an MLflow run id or tunedModels/NAME, as `tunerun status --json` shows them"
        )
    if chat:
        if file is not None or json_:
            raise InputError("--chat: reads messages from standard input and prints answers; omit --file and --json")
        from tunerun.cli.chat import begin

        begin(
            run_,
            _typed_row(columns or []),
            runs=runs,
            system=system,
            is_base=base,
            max_output_tokens=max_output_tokens,
        )
        return
    if system is not None or base:
        raise InputError("--system and --base are for --chat; a row of messages has its own system message")
    if (file is None) == (not columns):
        raise InputError(
            "give either one row as COLUMN=VALUE, or many with --file, or begin a conversation with --chat"
        )
    from tunerun.prediction import predict as call

    rows = file if file is not None else [_typed_row(columns or [])]
    answered = call(run_, rows, runs=runs, max_output_tokens=max_output_tokens)
    sys.stderr.writelines(f"warning: {warning}\n" for warning in answered.warnings)
    if json_:
        print_json({"tuned_model": answered.tuned_model, "outputs": list(answered.outputs)})
    else:
        sys.stdout.writelines(f"{output}\n" for output in answered.outputs)


def _typed_row(columns: list[str]) -> dict[str, str]:
    wrong = [column for column in columns if "=" not in column]
    if wrong:
        raise InputError([f"{column!r}: write COLUMN=VALUE, such as text_input='twenty two'" for column in wrong])
    return dict(column.split("=", 1) for column in columns)


@app.command()
def config(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    explain: Annotated[str | None, typer.Option(help="Say what a dotted key means and where it was written.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of an experiment.")] = False,
    json_: Json = False,
) -> None:
    """Print the composed config as YAML, or as JSON."""
    from tunerun import compose
    from tunerun.compose.explanation import text_of

    if explain:
        explained = compose.explain(explain, overrides or (), config_dir)
        if json_:
            print_json(explained)
        else:
            sys.stdout.write(text_of(explained) + "\n")
    elif json_ and not schema:
        import yaml

        print_json(yaml.safe_load(compose.compose_yaml(overrides or (), config_dir)))
    elif schema:
        from tunerun.schema import json_schema

        print_json(json_schema())
    else:
        sys.stdout.write(compose.compose_yaml(overrides or (), config_dir))


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="A new or empty directory.")] = Path(), json_: Json = False
) -> None:
    """Write a small project to start from: a conf directory, examples, an experiment."""
    from tunerun.cli.tables import out
    from tunerun.scaffold import write_project

    files = write_project(directory)
    if json_:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        out.print(f"wrote {file}")
    prefix = "" if directory == Path() else f"cd {shlex.quote(str(directory))} && "
    out.print(f"Next: {prefix}tunerun plan experiment=support, then tunerun run experiment=support")


@app.command()
def ui(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = UI_PORT,
) -> None:
    """Start the MLflow server on this project's store, on this machine only."""
    from tunerun.cli.tables import err, plain
    from tunerun.compose import places
    from tunerun.ledger import FILE_NAME
    from tunerun.tracking import open_tracker, serve_ui

    paths, tracking = places(overrides or (), config_dir)
    tracker = open_tracker(tracking, Path(paths.runs))
    if tracker is None:
        raise InputError("tracking: none; there is nothing to look at, choose tracking=mlflow and run `tunerun sync`")
    if (Path(paths.runs) / FILE_NAME).exists():
        # Close what an interrupted run left open, and rebuild a store that is gone or damaged, before anyone looks.
        tracker.sync()
        if said := tracker.problem or tracker.notice:
            err.print(f"[yellow]note:[/] {plain(said)}")
    raise typer.Exit(serve_ui(tracker.uri, port))


@app.command()
def sync(overrides: Overrides = None, config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Bring MLflow up to date with the ledger."""
    from tunerun.cli.tables import err, out, plain
    from tunerun.compose import places
    from tunerun.errors import TrackingError
    from tunerun.runner.selection import existing_ledger
    from tunerun.tracking import open_tracker

    paths, tracking = places(overrides or (), config_dir)
    tracker = open_tracker(tracking, Path(paths.runs))
    if tracker is None:
        raise InputError("tracking: none; choose tracking=mlflow")
    existing_ledger(Path(paths.runs))
    report = tracker.sync()
    if tracker.problem:
        raise TrackingError(tracker.problem)
    if tracker.notice:
        err.print(f"[yellow]note:[/] {plain(tracker.notice)}")
    if json_:
        print_json({"sweeps": report.sweeps, "runs": report.runs, "points": report.points})
    else:
        out.print(str(report))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"tunerun {__version__}\n")
        raise typer.Exit


# `--help` lists the commands of this module first, then these, each as a sweep's life has them.
for each in (rerun.rerun, verify.verify, bundle.bundle, diff.diff, appendix.appendix, promote.promote, export.export):
    app.command()(each)
app.add_typer(data.app, name="data")
app.add_typer(serve.app, name="serve")
