"""The commands' output for people: tables on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

from tunerun.comparison.numbers import counted
from tunerun.comparison.renderers import terminal
from tunerun.comparison.results import LOSS, TrialResult, Verdict
from tunerun.dataset import LoadedDataset
from tunerun.job import JobState
from tunerun.ledger import Opening, SweepRecord
from tunerun.runner import SweepResult
from tunerun.runner.bars import BarProgress, LineProgress

if TYPE_CHECKING:
    from tunerun.service.core.credentials import Key

MOST_COLUMNS = 10_000
"""Wider than any table, to measure the width that its words need."""

PIPE_WIDTH = 160
"""Width of output to a file or a pipe, unless COLUMNS is set."""


def _console(*, stderr: bool) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    # Lines are wrapped only in a terminal. Without `highlight=False` rich would colour every number and path.
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not is_terminal)


out = _console(stderr=False)
err = _console(stderr=True)

MAX_NUMBERS = 10
"""Most failed trials that are named for one reason."""


def plain(text: str) -> str:
    """Escape text from outside, so that rich does not read its brackets as markup."""
    return text.replace("[", r"\[")


def say(text: str) -> None:
    """Print a text on stdout as it is, without wrapping its lines."""
    out.print(plain(text), soft_wrap=True)


def note(text: str) -> None:
    """Print a remark on stderr that does not stop the command."""
    err.print(f"[yellow]note:[/] {plain(text)}", soft_wrap=True)


def warnings(texts: Sequence[str]) -> None:
    """Print warnings on stderr, one a line."""
    for text in texts:
        err.print(f"[yellow]warning:[/] {plain(text)}")


def progress_on_stderr() -> LineProgress | BarProgress:
    """Return the live progress of a run: bars in a terminal, lines elsewhere."""
    return BarProgress(err) if err.is_terminal else LineProgress(err)


def new_table(title: str) -> Table:
    """Return an empty table in the style of all tables."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def print_table(table: Table) -> None:
    """Print a table on stdout, or each row as lines of `head: cell` if the table would break words."""
    # Rich would cut cells with an ellipsis instead: an id that is cut cannot be copied.
    options = out.options.update(width=MOST_COLUMNS)
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", False
    if not table.columns or Measurement.get(out, options, table).minimum <= out.width:
        out.print(table)
        return
    out.print(table.title or "")
    heads = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        lines = [(head, str(cell)) for head, cell in zip(heads, cells, strict=True) if str(cell)]
        for position, (head, cell) in enumerate(lines):
            indent = 2 if position else 0
            out.print(Padding(f"{head}: {cell}", (0, 0, 0, indent), expand=False), soft_wrap=False)


def keys_table(keys: Sequence[Key]) -> None:
    """Print the owners of the service's keys, without the keys."""
    table = new_table("keys")
    for head in ("id", "owner", "scopes", "made"):
        table.add_column(head)
    for key in keys:
        scopes = ", ".join(scope.rpartition("/")[2] for scope in key.scopes) or "-"
        table.add_row(key.id, plain(key.owner), plain(scopes), time.strftime("%Y-%m-%d", time.gmtime(key.created_at)))
    print_table(table)


def findings_table(loaded: LoadedDataset, substitute: str | None = None) -> None:
    """Print the findings of the checks of a data set, and the number of its examples.

    Args:
        loaded: the data set.
        substitute: the template that the checks used because the experiment's own does not fit; None: its own.
    """
    if loaded.warnings:
        table = new_table("findings")
        table.add_column("check")
        table.add_column("what, where, and what to do")
        for finding in loaded.findings:
            table.add_row(finding.check, plain(finding.text))
        for text in loaded.advice:
            table.add_row("advice", plain(text))
        print_table(table)
    turns = loaded.conversations
    if turns["conversations"] or turns["system_messages"]:
        learned = f"{turns['learned_answers']:,} of {counted(turns['turns'], 'answer')} learned"
        out.print(
            f"training: {counted(turns['conversations'], 'example')} with several turns, {learned}; "
            f"{counted(turns['system_messages'], 'system message')}"
        )

    sets = (("training", loaded.training), ("validation", loaded.validation), ("test", loaded.test))
    counts = ", ".join(f"{len(each.examples):,} {name}" for name, each in sets if each is not None)
    if substitute is not None:
        out.print(plain(f"{counts} examples, checked with a template that fits their columns: {substitute}"))
        return
    out.print(f"{counts} examples: {counted(len(loaded.warnings), 'warning')}, no errors")


def result_table(result: SweepResult) -> None:
    """Print the points of a sweep and the baselines; `result_sentence` prints the verdict."""
    verdict = result.verdict
    terminal.print_table(result.table, out)
    succeeded = [trial for trial in verdict.trials if trial.state is JobState.SUCCEEDED]
    if any(trial.record.validation is not None and LOSS not in trial.metrics for trial in succeeded):
        out.print("validation loss: -; the service does not measure it (only `tunerun serve` takes validationData)")
    if verdict.best is not None:
        best = verdict.trials[verdict.best]
        if best.advice is not None:
            out.print(f"Loss curves of trial {verdict.best}: {best.advice.text}.")
        if best.tuned_model is not None:
            folder = Path(best.tuned_model.location)  # of a model at a service: its name there
            is_below = folder.is_relative_to(Path.cwd())
            place = str(folder.relative_to(Path.cwd())) if is_below else best.tuned_model.location
            out.print(f"Its tuned model: {best.tuned_model.name} in {plain(place)}")
    failures(verdict)


def result_sentence(result: SweepResult) -> None:
    """Print the notes of a comparison, and its sentence as the last line."""
    terminal.print_words(result.table, out)


def earlier_openings(openings: Sequence[Opening], verdict: Verdict) -> None:
    """Print the earlier openings of a test set, with the trials that they were for."""
    for opening in openings:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(opening.opened_at))
        trials = ", ".join(map(str, opening.points))
        where = "" if opening.sweep == verdict.sweep.id else f" of {opening.sweep}"
        out.print(f"The test set was opened before: {day}, for trial{'s' * (len(opening.points) > 1)} {trials}{where}")


def verdicts_table(results: Sequence[SweepResult]) -> None:
    """Print the verdicts of several sweeps, one line each."""
    table = new_table(f"{len(results)} experiments")
    for head in ("experiment", "sweep", "trials", "best", "verdict"):
        table.add_column(head)
    for result in results:
        verdict = result.verdict
        states = Counter(trial.state for trial in verdict.trials)
        trials = ", ".join(f"{count} {state}" for state, count in states.items())
        best = "-" if verdict.best is None else str(verdict.best)
        sentence = result.stopped or verdict.sentence
        table.add_row(verdict.sweep.experiment, verdict.sweep.id, trials, best, plain(sentence))
    print_table(table)


def failures(verdict: Verdict) -> None:
    """Print why trials failed: the first message of each reason, and the first traceback."""
    reasons: dict[str, list[TrialResult]] = {}
    for trial in verdict.trials:
        if trial.failure is not None:
            reasons.setdefault(trial.failure.reason, []).append(trial)
    for trials in reasons.values():
        first = trials[0].failure
        assert first is not None  # noqa: S101 - grouped by it
        numbers = ", ".join(str(trial.record.number) for trial in trials[:MAX_NUMBERS])
        more = f" and {len(trials) - MAX_NUMBERS} more" if len(trials) > MAX_NUMBERS else ""
        which = f"{'trial' if len(trials) == 1 else 'trials'} {numbers}{more}"
        err.print(f"[red]failed:[/] {which}: {plain(f'{first.kind}: {first.message}')}")
    # One traceback: trials that fail alike, as with a bug in the engine, all have the same.
    trace = next((t.failure.traceback for t in verdict.trials if t.failure and t.failure.traceback), None)
    if trace:
        err.print(plain(trace.rstrip()))


def sweeps_table(rows: Sequence[tuple[SweepRecord, Mapping[JobState, int]]]) -> None:
    """Print sweeps with the number of their trials in each state."""
    table = new_table("sweeps")
    for head in ("sweep", "frozen", "trials", "states"):
        table.add_column(head)
    for sweep, states in rows:
        frozen = time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.created_at))
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        table.add_row(sweep.id, frozen, str(sum(states.values())), counts)
    print_table(table)
