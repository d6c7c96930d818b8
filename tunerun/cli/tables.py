"""What the commands print for people: tables on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tunerun.evaluation.verdict import LOSS, TRAINING_LOSS, Verdict
from tunerun.job import JobState
from tunerun.ledger import SweepRecord
from tunerun.planning import Plan
from tunerun.runner import SweepResult
from tunerun.schema import Scalar

PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe; COLUMNS says otherwise."""


def _console(*, stderr: bool) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=True)


out = _console(stderr=False)
err = _console(stderr=True)

MAX_ROWS = 60
"""Rows of a plan's table; `--json` has all of them."""

_STYLES = {JobState.SUCCEEDED: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow"}


def short(key: str) -> str:
    """The last part of a dotted key, as a column's head."""
    return key.rsplit(".", 1)[-1]


def number(value: float | None) -> str:
    """A measure with three significant digits; a dash where it is not known."""
    return "-" if value is None else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share as a percentage; a dash where it is not known."""
    return "-" if value is None else f"{100 * value:.0f} %"


def duration(seconds: float) -> str:
    """A time for people: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def plan_table(plan: Plan) -> None:
    """Print the trials of a plan, what they cost, and what a user should know first."""
    table = _table(f"{plan.name}: {_counted(len(plan.trials), 'trial')}, sweep {plan.sweep}")
    table.add_column("trial", justify="right")
    for key in plan.varied:
        table.add_column(short(key), justify="right")
    for head in ("examples", "tokens", "steps"):
        table.add_column(head, justify="right")
    table.add_column("state")
    for trial in plan.trials[:MAX_ROWS]:
        state = "done" if trial.done else "failed" if trial.failed else "to run"
        table.add_row(
            str(trial.number),
            *(str(trial.overrides[key]) for key in plan.varied),
            str(len(trial.training.examples)),
            f"{'' if plan.tokens_exact else '~'}{trial.tokens:,}",
            f"{trial.steps:,}",
            state if trial.same_as is None else f"same as {trial.same_as}",
        )
    out.print(table)
    if len(plan.trials) > MAX_ROWS:
        out.print(f"... and {len(plan.trials) - MAX_ROWS} more; --json lists all of them")
    for key, value in plan.experiment.pins.items():
        out.print(f"pinned by the command line: {key} = {value}")
    out.print(_effort(plan))
    warnings(plan.warnings)


def run_line(plan: Plan, *, retry_failed: bool) -> None:
    """Say on stderr what a run is about to do."""
    todo, everything = len(plan.to_run(retry_failed=retry_failed)), len(plan.to_run(retry_failed=True))
    if todo:
        err.print(f"{plan.sweep}: {_counted(len(plan.trials), 'trial')}, {todo} to run")
    elif everything == 0:
        err.print(f"{plan.sweep}: all {_counted(len(plan.trials), 'trial')} are done")
    if everything > todo:
        err.print(f"{everything - todo} failed earlier; --retry-failed submits them again")


def _effort(plan: Plan) -> str:
    todo = plan.to_run(retry_failed=False)
    failed = len(plan.to_run(retry_failed=True)) - len(todo)
    hint = f" {failed} failed earlier; run --retry-failed submits them again." if failed else ""
    if not todo:
        return f"All other trials are done.{hint}" if failed else "All trials are done."
    tokens, steps = sum(t.tokens for t in todo), sum(t.steps for t in todo)
    exact = "" if plan.tokens_exact else " (an estimate: the tokenizer is not in the cache yet)"
    time_text = "unknown until a first trial has run" if plan.seconds is None else f"about {duration(plan.seconds)}"
    count = _counted(len(todo), "trial")
    return f"{count} to run: {tokens:,} training tokens{exact}, {steps:,} steps; training time: {time_text}.{hint}"


def warnings(texts: Sequence[str]) -> None:
    """Print warnings, one a line, on stderr."""
    for text in texts:
        err.print(f"[yellow]warning:[/] {_plain(text)}")


def result_table(result: SweepResult) -> None:
    """Print all trials of a sweep beside the base model, and the verdict."""
    verdict = result.verdict
    varied = list(verdict.trials[0].record.overrides)
    metrics = _eval_metrics(verdict)
    shows_state = any(trial.state is not JobState.SUCCEEDED for trial in verdict.trials)
    table = _table(f"{verdict.sweep.experiment}: sweep {verdict.sweep.id}")
    table.add_column("trial", justify="right", no_wrap=True)
    for key in varied:
        table.add_column(short(key), justify="right", no_wrap=True)
    if shows_state:
        table.add_column("state", no_wrap=True)
    for head in ("final mean loss", "validation loss", *(m.removeprefix("eval/").replace("_", " ") for m in metrics)):
        table.add_column(head, justify="right")
    table.add_column("training loss")
    for trial in verdict.trials:
        style = _STYLES.get(trial.state, "")
        table.add_row(
            f"{'* ' if trial.record.number == verdict.best else ''}{trial.record.number}",
            *(str(trial.record.overrides[key]) for key in varied),
            *([f"[{style}]{trial.state}[/]" if style else trial.state.value] if shows_state else []),
            *_measures(trial.metrics, metrics),
            trial.advice.summary if trial.advice else "",
            style="bold" if trial.record.number == verdict.best else None,
        )
    table.add_section()
    for baseline in verdict.baselines:
        blank = [""] * (len(varied) + shows_state)
        table.add_row(baseline.name, *blank, *_measures(baseline.metrics, metrics), "not tuned")
    out.print(table)
    out.print(_plain(verdict.sentence))
    if verdict.best is not None:
        best = verdict.trials[verdict.best]
        if best.advice is not None:
            out.print(f"Its training loss is {best.advice.text}.")
        if best.tuned_model is not None:
            out.print(f"Its tuned model: {best.tuned_model.name} in {_plain(best.tuned_model.location)}")
    failures(verdict)


def _eval_metrics(verdict: Verdict) -> list[str]:
    rows: list[Mapping[str, float]] = [t.metrics for t in verdict.trials]
    rows.extend(b.metrics for b in verdict.baselines)
    return sorted({name for row in rows for name in row if name.startswith("eval/")})


def _measures(metrics: Mapping[str, float], evaluated: Sequence[str]) -> list[str]:
    losses = [number(metrics.get(TRAINING_LOSS)), number(metrics.get(LOSS))]
    return losses + [share(metrics.get(name)) for name in evaluated]


def failures(verdict: Verdict) -> None:
    """Print why trials failed, once for each reason, with the first traceback."""
    reasons: dict[str, list[int]] = {}
    for trial in verdict.trials:
        if trial.failure is not None:
            reasons.setdefault(f"{trial.failure.kind}: {trial.failure.message}", []).append(trial.record.number)
    for reason, numbers in reasons.items():
        err.print(
            f"[red]failed:[/] {'trial' if len(numbers) == 1 else 'trials'} {', '.join(map(str, numbers))}: ", end=""
        )
        err.print(_plain(reason))
    trace = next((t.failure.traceback for t in verdict.trials if t.failure and t.failure.traceback), None)
    if trace:
        err.print(_plain(trace.rstrip()))


def sweeps_table(rows: Sequence[tuple[SweepRecord, Mapping[JobState, int]]]) -> None:
    """Print all sweeps of a ledger, and how many of their trials are in which state."""
    table = _table("sweeps")
    for head in ("sweep", "frozen", "trials", "states"):
        table.add_column(head)
    for sweep, states in rows:
        frozen = time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.created_at))
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        table.add_row(sweep.id, frozen, str(sum(states.values())), counts)
    out.print(table)


def overrides_text(overrides: Mapping[str, Scalar]) -> str:
    """What a trial sets, in a few words."""
    return " ".join(f"{short(key)}={value}" for key, value in overrides.items())


def _plain(text: str) -> str:
    """Text from outside, so that brackets in it are no markup."""
    return text.replace("[", r"\[")


plain = _plain
