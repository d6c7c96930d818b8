"""The output of `tunerun plan` for people."""

from __future__ import annotations

from collections.abc import Sequence

from tunerun.cli.tables import err, new_table, out, plain, print_table, warnings
from tunerun.comparison import labels
from tunerun.comparison.numbers import counted
from tunerun.engine.token_counter import ESTIMATE_RANGE
from tunerun.planning import Plan, Trial, training_runs

MAX_ROWS = 60
"""Most rows of a table; `--json` has all of them."""

MAX_CHANGES = 10
"""Most trials for which a plan explains why they are new."""

MAX_BASELINES = 8
"""Most baselines that a plan names; `--json` has all of them."""


def plan_table(plan: Plan) -> None:
    """Print the trials of a plan, their cost, what changed since the last sweep, and warnings."""
    _print_trials(plan)
    for key, value in plan.experiment.pins.items():
        out.print(f"pinned by the command line: {key} = {value}")
    lines = [*plan.tracking_notes, _effort(plan)]
    if plan.baselines:
        planned = [baseline for baseline in plan.baselines if baseline.problem is None]
        tokens = sum(baseline.tokens for baseline in planned)
        names = ", ".join(baseline.name for baseline in planned[:MAX_BASELINES])
        more = f" and {len(planned) - MAX_BASELINES:,} more" if len(planned) > MAX_BASELINES else ""
        effort = f"{tokens:,} tokens of prompts and answers{_range(plan, tokens)}" if tokens else "nothing more to ask"
        lines.append(f"Baselines: {names or 'none'}{more}; {effort}.")
    for judge in plan.judges:
        metric, price = judge.metric, judge.metric.price
        judge_name = f"{metric.name}, by {metric.description} at {metric.base_url}"
        cost = "; its price is not known" if judge.has_unknown_price else ""
        if price is not None:
            cost = f"; about ${judge.usd:,.2f}, at most ${judge.usd_at_most:,.2f} ({price.source}, {price.date})"
        calls = f"up to {counted(judge.calls, 'call')}, fewer where answers are equal{cost}"
        lines.append(f"{judge_name}: {calls if judge.calls else 'nothing more to ask'}.")
    lines += map(str, plan.memory)
    lines += [] if plan.visibility is None else [str(plan.visibility)]
    if plan.test_rows:
        lines.append(
            f"{counted(plan.test_rows, 'test example')} frozen for the end: no run asks them; "
            "`tunerun compare --final` opens them once."
        )
    if plan.changes:
        lines.append(f"New since the last sweep of {plan.name}, against the trial there that is most alike:")
    for change in plan.changes[:MAX_CHANGES]:
        differences = ", ".join(str(difference) for difference in change.differences)
        lines.append(f"  trial {change.number} (there {change.earlier}): {differences}")
    # More, not all: a plan explains `planning.changes.MAX_EXPLAINED` trials at most.
    if len(plan.changes) > MAX_CHANGES:
        lines.append("  ... --json lists more of them")
    for line in lines:
        out.print(plain(line))
    warnings(plan.warnings)


def plans_table(plans: Sequence[Plan]) -> None:
    """Print one row for each of several experiments."""
    table = new_table(f"{len(plans)} experiments")
    for head in ("experiment", "sweep", "trials", "to run", "tokens"):
        table.add_column(head, justify="left" if head in ("experiment", "sweep") else "right")
    for plan in plans:
        todo = plan.to_run(retry_failed=False)
        tokens = f"{'' if plan.tokens_exact else '~'}{plan.cost(todo).tokens:,}"
        table.add_row(plan.name, plan.sweep, f"{len(plan.trials):,}", f"{len(todo):,}", tokens)
    print_table(table)


def run_line(plan: Plan, *, retry_failed: bool) -> None:
    """Print on stderr what a run is about to do."""
    todo, unfinished = len(plan.to_run(retry_failed=retry_failed)), len(plan.to_run(retry_failed=True))
    if todo:
        err.print(f"{plan.sweep}: {counted(len(plan.trials), 'trial')}, {todo} to run")
    elif unfinished == 0:
        count = len(plan.trials)
        err.print(f"{plan.sweep}: {'its trial is done' if count == 1 else f'all {count:,} trials are done'}")
    if unfinished > todo:
        err.print(f"{unfinished - todo} failed earlier; --retry-failed submits them again")
    for note in plan.tracking_notes:
        err.print(plain(note))


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _print_trials(plan: Plan) -> None:
    """Print a table of the trials; columns that all trials would leave empty are omitted."""
    # Without replicates every trial is a point of its own.
    shows_points = plan.points < len(plan.trials)
    points = f" ({counted(plan.points, 'point')})" if shows_points else ""
    table = new_table(f"{plan.name}: {counted(len(plan.trials), 'trial')}{points}, sweep {plan.sweep}")
    shows_time = any(trial.seconds is not None for trial in plan.trials)
    shows_cost = any(trial.config.model.price is not None for trial in plan.trials)
    heads = labels.short_names(plan.varied)
    for head in (
        *("trial", *(["point"] * shows_points), *(heads[key] for key in plan.varied)),
        *("examples", "tokens", "steps", *(["time"] * shows_time), *(["cost"] * shows_cost)),
    ):
        table.add_column(head, justify="right")
    table.add_column("state")
    for trial in plan.trials[:MAX_ROWS]:
        state = "done" if trial.done else "failed" if trial.failed else "to run"
        if trial.same_as is not None:
            state = f"same as {trial.same_as}"
        elif trial.prefix_of is not None:
            state = f"{state}; trained with {trial.prefix_of}"
        table.add_row(
            str(trial.number),
            *([str(trial.point)] * shows_points),
            *(str(trial.overrides[key]) for key in plan.varied),
            str(len(trial.training.examples)),
            f"{'' if plan.tokens_exact else '~'}{trial.tokens:,}",
            f"{trial.steps:,}",
            *(["-" if trial.seconds is None else duration(trial.seconds)] * shows_time),
            *([f"${trial.usd:,.2f}"] * shows_cost),
            state,
        )
    print_table(table)
    if len(plan.trials) > MAX_ROWS:
        out.print(f"... and {len(plan.trials) - MAX_ROWS} more; --json lists all of them")


def _effort(plan: Plan) -> str:
    todo = plan.to_run(retry_failed=False)
    failed = len(plan.to_run(retry_failed=True)) - len(todo)
    hint = f" {failed} failed earlier; run --retry-failed submits them again." if failed else ""
    if not todo:
        return f"Nothing to run: what has not failed is done.{hint}" if failed else "All trials are done."
    cost, once = plan.cost(todo), training_runs(todo)
    parts = [f"{cost.tokens:,} training tokens{_range(plan, cost.tokens)}", f"{cost.steps:,} steps"]
    hours = "unknown until a first trial has run" if cost.hours is None else f"about {duration(cost.hours * 3600)}"
    parts.append(f"training time: {hours}")
    # By price, each with its source: trials of different base models may have different ones.
    prices = dict.fromkeys(t.config.model.price for t in once)
    parts.extend(
        f"${sum(t.usd for t in once if t.config.model.price == price):,.2f} at ${price.usd_per_million_tokens:g} a "
        f"million tokens ({price.source}, {price.date})"
        for price in prices
        if price is not None
    )
    spent = f" Spent so far: {plan.spent.tokens:,} tokens, ${plan.spent.usd:,.2f}." if plan.spent.usd else ""
    runs = f" in {counted(len(once), 'training run')}" if len(once) < len(todo) else ""
    return f"{counted(len(todo), 'trial')} to run{runs}: {'; '.join(parts)}.{_saved(plan, todo)}{hint}{spent}"


def _saved(plan: Plan, todo: Sequence[Trial]) -> str:
    """What training once saves for trials that differ only in how many epochs they use; empty: nothing."""
    saved = plan.saved(todo)
    if not saved.steps:
        return ""

    parts = [f"{saved.steps:,} steps", f"{saved.tokens:,} training tokens"]
    if saved.hours is not None:
        parts.append(f"about {duration(saved.hours * 3600)}")
    if saved.usd:
        parts.append(f"${saved.usd:,.2f}")
    pairs = [
        (trial.config.hyperparameters, plan.trials[trial.training_run].config.hyperparameters)
        for trial in todo
        if trial.prefix_of is not None
    ]
    keys = [
        key
        for key in ("epoch_count", "keep", "average_last")
        if any(getattr(own, key) != getattr(longest, key) for own, longest in pairs)
    ]
    return (
        f" Trials that differ in {' or '.join(keys) or 'epoch_count'} alone are trained once, which saves "
        f"{', '.join(parts[:-1])} and {parts[-1]}."
    )


def _range(plan: Plan, tokens: int) -> str:
    if plan.tokens_exact:
        return ""
    low, high = (round(factor * tokens) for factor in ESTIMATE_RANGE)
    return f" (an estimate, between {low:,} and {high:,}: the tokenizer is not in the cache yet)"
