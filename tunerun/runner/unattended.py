"""Jobs of a sweep that nobody runs just now: where they stand, and how they are ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from tunerun import schema
from tunerun.backends import open_backend
from tunerun.backends.base import Backend
from tunerun.errors import BackendError, LedgerError, LockedError
from tunerun.holding import held, holder_of
from tunerun.job import JobState, JobStatus
from tunerun.ledger import JobRecord, Ledger, TrialRecord
from tunerun.planning import tuned_model_id

BackendOpener = Callable[[schema.Backend, Path, Path], Backend]

CANCEL_TIMEOUT_S = 20.0
"""How long `cancel` waits for a backend to say that a job has ended."""


@dataclass(frozen=True)
class _Live:
    """A job that is not finished, the first of the trials that share it, and the backend that has it."""

    trial: TrialRecord
    job: JobRecord
    backend: Backend


def refresh(ledger: Ledger, sweep: str, *, cache: Path, open_backend: BackendOpener = open_backend) -> str | None:
    """Record where the unfinished jobs of a sweep stand, by one poll; one that is run now is its runner's business.

    Args:
        cache: where converted base models are kept.

    Returns:
        Why some could not be asked for, in a line; None: all were.
    """
    if holder_of(ledger.path.parent, sweep) is not None or not _unfinished(ledger, sweep):
        return None
    try:
        with held(ledger.path.parent, sweep), ExitStack() as stack:
            live = [each for each in _live(ledger, sweep, cache, open_backend, stack) if each.job.ref is not None]
            for backend in {id(each.backend): each.backend for each in live}.values():
                jobs = [each.job for each in live if each.backend is backend]
                statuses = backend.poll([job.ref for job in jobs if job.ref is not None])
                ledger.record_all({job.id: statuses[job.ref] for job in jobs if job.ref is not None})
    except (BackendError, LedgerError, LockedError) as error:
        return str(error)
    return None


def cancel(
    ledger: Ledger, sweep: str, numbers: Sequence[int], *, cache: Path, open_backend: BackendOpener = open_backend
) -> str:
    """Cancel trials of a sweep: by its runner where there is one, else here.

    Args:
        numbers: of the trials; those that are finished stay as they are.
        cache: where converted base models are kept.

    Returns:
        What was done, in a sentence.

    Raises:
        BackendError: a service could not be asked; it may be asked again.
    """
    runs = ledger.path.parent
    ledger.request_cancel(sweep, numbers)
    holder = holder_of(runs, sweep)
    if holder is not None:
        return f"asked {holder}, which runs {sweep}, to cancel; `tunerun status --sweep {sweep}` shows when it has"
    wanted = {trial.key for trial in ledger.trials(sweep) if trial.number in numbers}
    with held(runs, sweep), ExitStack() as stack:
        live = [each for each in _live(ledger, sweep, cache, open_backend, stack) if each.job.key in wanted]
        for each in live:
            _cancel_job(ledger, each)
        ledger.clear_cancel_requests(sweep)
    return f"cancelled {len(live)} {'job' if len(live) == 1 else 'jobs'} of {sweep}; nobody runs it"


def _unfinished(ledger: Ledger, sweep: str) -> dict[str, JobRecord]:
    """The jobs of a sweep that are not finished, by key."""
    return {key: job for key, job in ledger.last_jobs(sweep).items() if not job.state.is_finished}


def _live(ledger: Ledger, sweep: str, cache: Path, opener: BackendOpener, stack: ExitStack) -> Iterator[_Live]:
    jobs, opened = _unfinished(ledger, sweep), dict[str, Backend]()
    for trial in ledger.trials(sweep):
        job = jobs.pop(trial.key, None)
        if job is None:
            continue
        section = trial.config["backend"]
        if str(section) not in opened:
            backend: schema.Backend = TypeAdapter(schema.Backend).validate_python(section)
            opened[str(section)] = stack.enter_context(opener(backend, ledger.path.parent, cache))
        yield _Live(trial, job, opened[str(section)])


def _cancel_job(ledger: Ledger, live: _Live) -> None:
    """End a job, and record that it has; one of which nobody knows whether it was submitted is looked for."""
    job, backend = live.job, live.backend
    ref = job.ref or backend.find(job.key, tuned_model_id(live.trial.config["name"], job.key))
    if ref is None:
        ledger.record(job.id, JobStatus(JobState.CANCELLED))
        return
    if job.ref is None:
        ledger.submitted(job.id, ref)
    backend.cancel(ref)
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while time.monotonic() < deadline:
        status = backend.poll([ref])[ref]
        if status.state.is_finished:
            ledger.record(job.id, status)
            return
        time.sleep(0.1)
    raise BackendError(f"{ref.id} has not ended within {CANCEL_TIMEOUT_S:g} s of being cancelled; look again later")
