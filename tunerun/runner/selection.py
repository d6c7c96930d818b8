"""Selects sweeps of a ledger: by id, by the name of their experiment, or the newest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunerun.errors import NotFoundError
from tunerun.ledger import FILE_NAME, Ledger, SweepRecord
from tunerun.planning import Plan

MOST_LISTED = 20
"""Maximum number of sweeps that an error lists, the newest first."""


def selected(ledger: Ledger, names: Sequence[str]) -> list[SweepRecord]:
    """Return the named sweeps, each once, in the order of the names.

    Args:
        ledger: to search.
        names: each a sweep's id, or an experiment's name for its newest sweep; empty: the newest sweep of all.

    Raises:
        NotFoundError: some names match no sweep; the message lists the existing ones.
    """
    existing = ledger.sweeps()
    if not existing:
        raise NotFoundError(f"{ledger.path}: no sweep has run")
    by_name = {sweep.experiment: sweep for sweep in existing} | {sweep.id: sweep for sweep in existing}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NotFoundError(
            f"{', '.join(missing)}: no sweep of this id or experiment in {ledger.path}; {_listed(existing)}"
        )
    sweeps = [by_name[name] for name in names] or existing[-1:]
    return list({sweep.id: sweep for sweep in sweeps}.values())


def chosen(
    ledger: Ledger, names: Sequence[str], plan: Plan | None, experiment: str | None, *, as_frozen: bool = False
) -> list[SweepRecord]:
    """Return the sweeps that a command is about: the named ones, else that of a plan, else the newest.

    Args:
        ledger: to search.
        names: see `selected`; empty: none are named.
        plan: whose sweep is meant; None: the newest sweep.
        experiment: the name that the newest sweep has to have; None: any.
        as_frozen: whether only a sweep with the plan's own id counts.

    Raises:
        NotFoundError: there is no such sweep; the message lists the existing ones.
    """
    if names:
        return selected(ledger, names)
    existing = ledger.sweeps(experiment)
    sweeps = existing[-1:] if plan is None else _sweep_of(plan, ledger, as_frozen=as_frozen)
    if not sweeps:
        wanted = (plan.sweep if plan is not None else experiment) or "no sweep named"
        raise NotFoundError(
            f"{wanted}: has not run, as far as {ledger.path} knows; {_listed(existing)}; choose one with --sweep"
        )
    return sweeps


def _sweep_of(plan: Plan, ledger: Ledger, *, as_frozen: bool) -> list[SweepRecord]:
    """Return the sweep of a plan as a list of one; empty: the plan has never run."""
    of_name = ledger.sweeps(plan.name)
    own = [sweep for sweep in of_name if sweep.id == plan.sweep]
    if own or as_frozen:
        return own
    # A sweep with the same jobs and answer methods has the answers that the plan would obtain. Its id differs where it
    # was scored by other metrics or had fewer baselines, or where an earlier version named it.
    wanted = [(trial.key, trial.answer_method) for trial in plan.trials]
    same = (sweep for sweep in reversed(of_name) if [(t.key, t.asked) for t in ledger.trials(sweep.id)] == wanted)
    return [sweep for sweep in [next(same, None)] if sweep is not None]


def _listed(sweeps: Sequence[SweepRecord]) -> str:
    """Format the ids of sweeps for an error message, the newest first."""
    ids = [sweep.id for sweep in reversed(sweeps)]
    more = f" and {len(ids) - MOST_LISTED} older" if len(ids) > MOST_LISTED else ""
    return f"sweeps: {', '.join(ids[:MOST_LISTED]) or 'none'}{more}"


def existing_ledger(runs: Path) -> Path:
    """Return the path of the ledger in a runs folder.

    Raises:
        NotFoundError: the folder has no ledger.
    """
    path = runs / FILE_NAME
    if not path.exists():
        raise NotFoundError(f"{path}: no ledger; nothing has run yet, or paths.runs is another folder")
    return path
