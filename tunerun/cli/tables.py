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

from tunerun.comparison import labels
from tunerun.comparison.numbers import counted
from tunerun.comparison.renderers import terminal
from tunerun.comparison.results import LOSS, TrialResult, Verdict
from tunerun.dataset import LoadedDataset
from tunerun.engine.tokens import ESTIMATE_RANGE
from tunerun.job import JobState
from tunerun.ledger import Opening, SweepRecord
from tunerun.planning import Plan, Trial, trained
from tunerun.planning.judging import PlannedJudge
from tunerun.runner import SweepResult

if TYPE_CHECKING:
    from tunerun.service.core.credentials import Key

MOST_COLUMNS = 10_000
"""Wider than any table, to measure the width that its words need."""

PIPE_WIDTH = 160
"""Width of output to a file or a pipe, unless COLUMNS is set."""


def _console(*, stderr: bool) -> Console:
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    # Lines are wrapped only in a terminal.
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not is_terminal)


out = _console(stderr=False)
err = _console(stderr=True)

MAX_ROWS = 60
"""Most rows of a table; `--json` has all of them."""

MAX_CHANGES = 10
"""Most trials for which a plan explains why they are new."""

MAX_BASELINES = 8
"""Most baselines that a plan names; `--json` has all of them."""


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _print(table: Table) -> None:
    """Print a table, or one row below the other if words would be broken."""
    options = out.options.update(width=MOST_COLUMNS)
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", False
    if table.columns and Measurement.get(out, options, table).minimum > out.width:
        _stacked(table)
    else:
        out.print(table)


def _stacked(table: Table) -> None:
    """Print each row of a table as lines of `head: cell`, below the first cell."""
    out.print(table.title or "")
    heads = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        lines = [(head, str(cell)) for head, cell in zip(heads, cells, strict=True) if str(cell)]
        for position, (head, cell) in enumerate(lines):
            indent = "  " if position else ""
            out.print(Padding(f"{head}: {cell}", (0, 0, 0, len(indent)), expand=False), soft_wrap=False)


def plan_table(plan: Plan) -> None:
    """Print the trials of a plan, their cost, what changed since the last sweep, and warnings."""
    shows_points = plan.points < len(plan.trials)
    points = f" ({counted(plan.points, 'point')})" if shows_points else ""
    table = _table(f"{plan.name}: {counted(len(plan.trials), 'trial')}{points}, sweep {plan.sweep}")
    for head in ("trial", *(["point"] * shows_points)):
        table.add_column(head, justify="right")
    heads = labels.short_names(plan.varied)
    for key in plan.varied:
        table.add_column(heads[key], justify="right")
    shows_time = any(trial.seconds is not None for trial in plan.trials)
    shows_cost = any(trial.config.model.price is not None for trial in plan.trials)
    for head in ("examples", "tokens", "steps", *(["time"] * shows_time), *(["cost"] * shows_cost)):
        table.add_column(head, justify="right")
    table.add_column("state")
    for trial in plan.trials[:MAX_ROWS]:
        table.add_row(
            str(trial.number),
            *([str(trial.point)] * shows_points),
            *(str(trial.overrides[key]) for key in plan.varied),
            str(len(trial.training.examples)),
            f"{'' if plan.tokens_exact else '~'}{trial.tokens:,}",
            f"{trial.steps:,}",
            *(["-" if trial.seconds is None else duration(trial.seconds)] * shows_time),
            *([f"${trial.usd:,.2f}"] * shows_cost),
            _state(trial),
        )
    _print(table)
    if len(plan.trials) > MAX_ROWS:
        out.print(f"... and {len(plan.trials) - MAX_ROWS} more; --json lists all of them")
    for key, value in plan.experiment.pins.items():
        out.print(f"pinned by the command line: {key} = {value}")
    for note in plan.tracking_notes:
        out.print(_plain(note))
    out.print(_effort(plan))
    if plan.baselines:
        out.print(_plain(_baselines(plan)))
    for judge in plan.judges:
        out.print(_plain(_judge(judge)))
    for memory in plan.memory:
        out.print(_plain(str(memory)))
    if plan.visibility is not None:
        out.print(_plain(str(plan.visibility)))
    if plan.test_rows:
        out.print(
            f"{counted(plan.test_rows, 'test example')} frozen for the end: no run asks them; "
            "`tunerun compare --final` opens them once."
        )
    _changes(plan)
    warnings(plan.warnings)


def _state(trial: Trial) -> str:
    if trial.same_as is not None:
        return f"same as {trial.same_as}"
    state = "done" if trial.done else "failed" if trial.failed else "to run"
    return state if trial.prefix_of is None else f"{state}; trained with {trial.prefix_of}"


def _changes(plan: Plan) -> None:
    """Print why trials are new, compared with the newest sweep of the same name."""
    if plan.changes:
        out.print(f"New since the last sweep of {plan.name}, against the trial there that is most alike:")
    for change in plan.changes[:MAX_CHANGES]:
        differences = ", ".join(str(difference) for difference in change.differences)
        out.print(f"  trial {change.number} (there {change.earlier}): {_plain(differences)}")
    if len(plan.changes) > MAX_CHANGES:
        out.print("  ... --json lists more of them")


def run_line(plan: Plan, *, retry_failed: bool) -> None:
    """Print on stderr what a run is about to do."""
    todo, everything = len(plan.to_run(retry_failed=retry_failed)), len(plan.to_run(retry_failed=True))
    if todo:
        err.print(f"{plan.sweep}: {counted(len(plan.trials), 'trial')}, {todo} to run")
    elif everything == 0:
        count = len(plan.trials)
        err.print(f"{plan.sweep}: {'its trial is done' if count == 1 else f'all {count:,} trials are done'}")
    if everything > todo:
        err.print(f"{everything - todo} failed earlier; --retry-failed submits them again")
    for note in plan.tracking_notes:
        err.print(_plain(note))


def _effort(plan: Plan) -> str:
    todo = plan.to_run(retry_failed=False)
    failed = len(plan.to_run(retry_failed=True)) - len(todo)
    hint = f" {failed} failed earlier; run --retry-failed submits them again." if failed else ""
    if not todo:
        return f"Nothing to run: what has not failed is done.{hint}" if failed else "All trials are done."
    cost, once = plan.cost(todo), trained(todo)
    parts = [f"{cost.tokens:,} training tokens{_range(plan, cost.tokens)}", f"{cost.steps:,} steps"]
    hours = "unknown until a first trial has run" if cost.hours is None else f"about {duration(cost.hours * 3600)}"
    parts.append(f"training time: {hours}")
    prices = dict.fromkeys(t.config.model.price for t in once)
    parts.extend(
        f"${sum(t.usd for t in once if t.config.model.price == price):,.2f} at ${price.usd_per_million_tokens:g} a "
        f"million tokens ({_plain(price.source)}, {price.date})"
        for price in prices
        if price is not None
    )
    spent = f" Spent so far: {plan.spent.tokens:,} tokens, ${plan.spent.usd:,.2f}." if plan.spent.usd else ""
    runs = f" in {counted(len(once), 'training run')}" if len(once) < len(todo) else ""
    return f"{counted(len(todo), 'trial')} to run{runs}: {'; '.join(parts)}.{_saved(plan, todo)}{hint}{spent}"


def _saved(plan: Plan, todo: Sequence[Trial]) -> str:
    """Return what is saved by training trials once that differ only in their epochs; empty: nothing."""
    saved = plan.saved(todo)
    if not saved.steps:
        return ""
    parts = [f"{saved.steps:,} steps", f"{saved.tokens:,} training tokens"]
    if saved.hours is not None:
        parts.append(f"about {duration(saved.hours * 3600)}")
    if saved.usd:
        parts.append(f"${saved.usd:,.2f}")
    return (
        f" Trials that differ in {_apart(plan, todo)} alone are trained once, which saves "
        f"{', '.join(parts[:-1])} and {parts[-1]}."
    )


def _apart(plan: Plan, trials: Sequence[Trial]) -> str:
    """Return the keys in which the trials of one training run differ."""
    shared = [(trial, plan.trials[trial.training_run]) for trial in trials if trial.prefix_of is not None]
    names = [
        name
        for name in ("epoch_count", "keep", "average_last")
        if any(
            getattr(one.config.hyperparameters, name) != getattr(other.config.hyperparameters, name)
            for one, other in shared
        )
    ]
    return " or ".join(names) or "epoch_count"


def _baselines(plan: Plan) -> str:
    """Return a line on the baselines, and the tokens that are still to be asked of them."""
    asked = [baseline for baseline in plan.baselines if baseline.problem is None]
    tokens = sum(baseline.tokens for baseline in asked)
    names = ", ".join(baseline.name for baseline in asked[:MAX_BASELINES])
    more = f" and {len(asked) - MAX_BASELINES:,} more" if len(asked) > MAX_BASELINES else ""
    effort = f"{tokens:,} tokens of prompts and answers{_range(plan, tokens)}" if tokens else "nothing more to ask"
    return f"Baselines: {names or 'none'}{more}; {effort}."


def _judge(judge: PlannedJudge) -> str:
    """Return a line on a judge: how often it is asked, and what that costs."""
    named = f"{judge.metric.name}, by {judge.metric.description} at {judge.metric.base_url}"
    if not judge.calls:
        return f"{named}: nothing more to ask."
    price = judge.metric.price
    cost = "; its price is not known" if judge.has_unknown_price else ""
    if price is not None:
        cost = f"; about ${judge.usd:,.2f}, at most ${judge.usd_at_most:,.2f} ({price.source}, {price.date})"
    return f"{named}: up to {counted(judge.calls, 'call')}, fewer where answers are equal{cost}."


def _range(plan: Plan, tokens: int) -> str:
    if plan.tokens_exact:
        return ""
    low, high = (round(factor * tokens) for factor in ESTIMATE_RANGE)
    return f" (an estimate, between {low:,} and {high:,}: the tokenizer is not in the cache yet)"


def warnings(texts: Sequence[str]) -> None:
    """Print warnings, one a line, on stderr."""
    for text in texts:
        err.print(f"[yellow]warning:[/] {_plain(text)}")


def keys_table(keys: Sequence[Key]) -> None:
    """Print the owners of the service's keys, without the keys."""
    table = _table("keys")
    for head in ("id", "owner", "scopes", "made"):
        table.add_column(head)
    for key in keys:
        scopes = ", ".join(scope.rpartition("/")[2] for scope in key.scopes) or "-"
        table.add_row(key.id, _plain(key.owner), _plain(scopes), time.strftime("%Y-%m-%d", time.gmtime(key.created_at)))
    _print(table)


def findings_table(loaded: LoadedDataset, substitute: str | None = None) -> None:
    """Print what the checks have found in a data set, and how many examples there are.

    Args:
        loaded: what was checked.
        substitute: the template that the checks used because the experiment's own does not fit; None: its own.
    """
    sets = (("training", loaded.training), ("validation", loaded.validation), ("test", loaded.test))
    counts = ", ".join(f"{len(each.examples):,} {name}" for name, each in sets if each is not None)
    if loaded.warnings:
        table = _table("findings")
        table.add_column("check")
        table.add_column("what, where, and what to do")
        for finding in loaded.findings:
            table.add_row(finding.check, _plain(finding.text))
        for text in loaded.advice:
            table.add_row("advice", _plain(text))
        _print(table)
    if spoken := _conversations(loaded):
        out.print(spoken)
    if substitute is not None:
        out.print(_plain(f"{counts} examples, checked with a template that fits their columns: {substitute}"))
        return
    out.print(f"{counts} examples: {counted(len(loaded.warnings), 'warning')}, no errors")


def _conversations(loaded: LoadedDataset) -> str:
    """Return a line on conversations among the training examples; empty: none."""
    found = loaded.conversations
    if not found["conversations"] and not found["system_messages"]:
        return ""
    learned = f"{found['learned_answers']:,} of {counted(found['turns'], 'answer')} learned"
    return (
        f"training: {counted(found['conversations'], 'example')} with several turns, {learned}; "
        f"{counted(found['system_messages'], 'system message')}"
    )


def result_table(result: SweepResult) -> None:
    """Print the points of a sweep and the baselines with their notes; `result_sentence` prints the verdict."""
    verdict = result.verdict
    terminal.print_table(result.table, out)
    if _lacks_validation_loss(verdict):
        out.print("validation loss: -; the service does not measure it (only `tunerun serve` takes validationData)")
    if verdict.best is not None:
        best = verdict.trials[verdict.best]
        if best.advice is not None:
            out.print(f"Loss curves of trial {verdict.best}: {best.advice.text}.")
        if best.tuned_model is not None:
            out.print(f"Its tuned model: {best.tuned_model.name} in {_plain(_shown_path(best.tuned_model.location))}")
    failures(verdict)


def result_sentence(result: SweepResult) -> None:
    """Print the notes of a comparison, and its sentence: the last line."""
    terminal.print_words(result.table, out)


def earlier_openings(openings: Sequence[Opening], verdict: Verdict) -> None:
    """Print when the rows of a test set were seen before, and for which trials."""
    for opening in openings:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(opening.opened_at))
        trials = ", ".join(map(str, opening.points))
        where = "" if opening.sweep == verdict.sweep.id else f" of {opening.sweep}"
        out.print(f"The test set was opened before: {day}, for trial{'s' * (len(opening.points) > 1)} {trials}{where}")


def verdicts_table(results: Sequence[SweepResult]) -> None:
    """Print the verdicts of several sweeps, one line each."""
    table = _table(f"{len(results)} experiments")
    for head in ("experiment", "sweep", "trials", "best", "verdict"):
        table.add_column(head)
    for result in results:
        verdict = result.verdict
        states = Counter(trial.state for trial in verdict.trials)
        trials = ", ".join(f"{count} {state}" for state, count in states.items())
        best = "-" if verdict.best is None else str(verdict.best)
        sentence = result.stopped or verdict.sentence
        table.add_row(verdict.sweep.experiment, verdict.sweep.id, trials, best, _plain(sentence))
    _print(table)


def _lacks_validation_loss(verdict: Verdict) -> bool:
    """Whether a succeeded trial has held-out examples whose loss its backend has not measured."""
    succeeded = [trial for trial in verdict.trials if trial.state is JobState.SUCCEEDED]
    return any(trial.record.validation is not None and LOSS not in trial.metrics for trial in succeeded)


def plans_table(plans: Sequence[Plan]) -> None:
    """Print what each of several experiments would do."""
    table = _table(f"{len(plans)} experiments")
    for head in ("experiment", "sweep", "trials", "to run", "tokens"):
        table.add_column(head, justify="left" if head in ("experiment", "sweep") else "right")
    for plan in plans:
        todo = plan.to_run(retry_failed=False)
        tokens = f"{'' if plan.tokens_exact else '~'}{plan.cost(todo).tokens:,}"
        table.add_row(plan.name, plan.sweep, f"{len(plan.trials):,}", f"{len(todo):,}", tokens)
    _print(table)


def _shown_path(location: str) -> str:
    """Return a location for display: relative if it is a folder below the current directory."""
    folder = Path(location)
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else location


def failures(verdict: Verdict) -> None:
    """Print why trials failed: each reason once with its first message, and the first traceback."""
    reasons: dict[str, list[TrialResult]] = {}
    for trial in verdict.trials:
        if trial.failure is not None:
            reasons.setdefault(trial.failure.reason, []).append(trial)
    for trials in reasons.values():
        first = trials[0].failure
        assert first is not None  # noqa: S101 - grouped by it
        err.print(f"[red]failed:[/] {_numbers(trials)}: {_plain(f'{first.kind}: {first.message}')}")
    trace = next((t.failure.traceback for t in verdict.trials if t.failure and t.failure.traceback), None)
    if trace:
        err.print(_plain(trace.rstrip()))


def _numbers(trials: Sequence[TrialResult]) -> str:
    numbers = ", ".join(str(trial.record.number) for trial in trials[:MAX_CHANGES])
    more = f" and {len(trials) - MAX_CHANGES} more" if len(trials) > MAX_CHANGES else ""
    return f"{'trial' if len(trials) == 1 else 'trials'} {numbers}{more}"


def sweeps_table(rows: Sequence[tuple[SweepRecord, Mapping[JobState, int]]]) -> None:
    """Print all sweeps of a ledger, and how many of their trials are in which state."""
    table = _table("sweeps")
    for head in ("sweep", "frozen", "trials", "states"):
        table.add_column(head)
    for sweep, states in rows:
        frozen = time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.created_at))
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        table.add_row(sweep.id, frozen, str(sum(states.values())), counts)
    _print(table)


def _plain(text: str) -> str:
    """Escape text from outside, so that rich does not read its brackets as markup."""
    return text.replace("[", r"\[")


plain = _plain
