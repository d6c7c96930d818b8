"""Which of a ledger's sweeps are meant: by id, by the name of their experiment, or the newest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunerun.errors import NotFoundError
from tunerun.ledger import FILE_NAME, Ledger, SweepRecord
from tunerun.planning import Plan

MOST_LISTED = 20
"""Sweeps that an error lists, the newest."""


def selected(ledger: Ledger, names: Sequence[str]) -> list[SweepRecord]:
    """The sweeps of these names, each once, in the order of the names.

    Args:
        names: of each, a sweep's id or an experiment's name, which means its newest sweep; empty: the newest of all.

    Raises:
        NotFoundError: some name none; lists the sweeps that there are.
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
    """The sweep of a plan, alone; empty: it has not run.

    Where it has not run under this id, the newest of its name with the same jobs that were asked in the same way: it is
    scored in another way, has fewer baselines, or an earlier version named it. Not so `as_frozen`.
    """
    known = ledger.sweeps(plan.name)
    own = [sweep for sweep in known if sweep.id == plan.sweep]
    if own or as_frozen:
        return own
    wanted = [(trial.key, trial.asked) for trial in plan.trials]
    of_same_jobs = (s for s in reversed(known) if [(t.key, t.asked) for t in ledger.trials(s.id)] == wanted)
    return [sweep for sweep in [next(of_same_jobs, None)] if sweep is not None]


def listed(sweeps: Sequence[SweepRecord]) -> str:
    """The ids of sweeps for an error, the newest first."""
    ids = [sweep.id for sweep in reversed(sweeps)]
    more = f" and {len(ids) - MOST_LISTED} older" if len(ids) > MOST_LISTED else ""
    return f"sweeps: {', '.join(ids[:MOST_LISTED]) or 'none'}{more}"


def existing_ledger(runs: Path) -> Path:
    """The ledger's file in a runs folder.

    Raises:
        NotFoundError: there is none.
    """
    path = runs / FILE_NAME
    if not path.exists():
        raise NotFoundError(f"{path}: no ledger; nothing has run yet, or paths.runs is another folder")
    return path
