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
    known = ledger.sweeps()
    if not known:
        raise NotFoundError(f"{ledger.path}: no sweep has run")
    by_name = {sweep.experiment: sweep for sweep in known} | {sweep.id: sweep for sweep in known}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NotFoundError(
            f"{', '.join(missing)}: no sweep of this id or experiment in {ledger.path}; {listed(known)}"
        )
    chosen = [by_name[name] for name in names] or known[-1:]
    return list({sweep.id: sweep for sweep in chosen}.values())


def sweep_of(plan: Plan, ledger: Ledger, *, as_frozen: bool = False) -> list[SweepRecord]:
    """Return the sweep of a plan as a list of one; empty: the plan has never run.

    If no sweep has the plan's id, the newest one with the same name, jobs and answer method is returned: it may be
    scored by other metrics, have fewer baselines, or have an id from an earlier version.

    Args:
        plan: whose sweep is wanted.
        ledger: to search.
        as_frozen: whether only a sweep with the plan's own id counts.
    """
    known = ledger.sweeps(plan.name)
    own = [sweep for sweep in known if sweep.id == plan.sweep]
    if own or as_frozen:
        return own
    wanted = [(trial.key, trial.answer_method) for trial in plan.trials]
    of_same_jobs = (s for s in reversed(known) if [(t.key, t.asked) for t in ledger.trials(s.id)] == wanted)
    return [sweep for sweep in [next(of_same_jobs, None)] if sweep is not None]


def listed(sweeps: Sequence[SweepRecord]) -> str:
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
