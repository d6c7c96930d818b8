"""Jobs of a sweep that no runner watches: query their state at their service, and cancel them.

Only the runner that watches a job writes its state. So a query writes nothing, and cancelling either asks that runner
or takes the runner's place, which means to hold the lock of the sweep that owns the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tunerun import schema
from tunerun.backends import open_backend, stored_section
from tunerun.backends.base import Backend
from tunerun.errors import BackendError, ConfigError
from tunerun.job import JobState, JobStatus
from tunerun.ledger import JobRecord, Ledger, TrialRecord
from tunerun.locks import held, held_if_free, holder_of
from tunerun.planning import tuned_model_id

BackendOpener = Callable[[schema.BackendSection, Path, Path], Backend]

CANCEL_TIMEOUT_S = 20.0
"""Seconds that `cancel` waits for a backend to report that a job has ended: services cancel later. Our choice."""


@dataclass(frozen=True)
class UnwatchedJob:
    """The current state of a job that no runner watches.

    Attributes:
        number: of its trial.
        state: as its service reports it.
        last_step: the last step of its loss curve; 0 before the first.
    """

    number: int
    state: JobState
    last_step: int


@dataclass(frozen=True)
class _Live:
    """An unfinished job with the first of the trials that share it, and its backend."""

    trial: TrialRecord
    job: JobRecord
    backend: Backend

    @property
    def is_hosted(self) -> bool:
        """Whether the job can outlive its runner; a local job ends with the runner."""
        return self.backend.capabilities().survives_runner


def unwatched_jobs(
    ledger: Ledger, sweep: str, *, cache: Path, open_backend: BackendOpener = open_backend
) -> tuple[list[UnwatchedJob], str | None]:
    """Query services for the unfinished jobs of a sweep that no runner watches; nothing is written.

    Args:
        ledger: of the sweep.
        sweep: its id.
        cache: folder of converted base models.
        open_backend: opens a backend from its config section; replaced in tests.

    Returns:
        The jobs in the order of their trials; and one line on why some could not be queried (None: all were).
    """
    # Nothing is recorded: an earlier version wrote the status of a job that another sweep's runner was training, which
    # ended that job as FAILED and lost its steps.
    runs, jobs, problem = ledger.path.parent, list[UnwatchedJob](), None
    with ExitStack() as stack:
        try:
            live = [
                (each, each.job.ref)
                for each in _live(ledger, sweep, cache, open_backend, stack)
                if each.is_hosted and holder_of(runs, each.job.sweep or sweep) is None
            ]
        except ConfigError as error:  # frozen by a version with another kind of backend
            return [], str(error)
        submitted = [(each, ref) for each, ref in live if ref is not None]
        for backend in {id(each.backend): each.backend for each, _ in submitted}.values():
            refs = {ref: each.trial.number for each, ref in submitted if each.backend is backend}
            try:
                statuses = backend.poll(list(refs))
            except BackendError as error:
                problem = str(error)
                continue
            for ref, status in statuses.items():
                last_step = status.snapshots[-1].step if status.snapshots else 0
                jobs.append(UnwatchedJob(refs[ref], status.state, last_step))
    return sorted(jobs, key=lambda job: job.number), problem


def cancel(
    ledger: Ledger, sweep: str, numbers: Sequence[int], *, cache: Path, open_backend: BackendOpener = open_backend
) -> str:
    """Cancel trials of a sweep: a watched job is cancelled by its runner, any other job here.

    Args:
        ledger: open for writing.
        sweep: id of the sweep.
        numbers: of the trials; finished ones are not changed.
        cache: folder of converted base models.
        open_backend: opens a backend from its config section; replaced in tests.

    Returns:
        One sentence on what was done.

    Raises:
        BackendError: a service did not answer, or a job did not end in time; the command may be repeated.
    """
    runs = ledger.path.parent
    ledger.request_cancel(sweep, numbers)
    if (holder := holder_of(runs, sweep)) is not None:
        return _requested(holder, sweep)
    wanted = {trial.key for trial in ledger.trials(sweep) if trial.number in numbers}
    owners: dict[str, str] = {}  # who was requested to cancel, by the sweep that it runs
    count = 0
    with held(runs, sweep), ExitStack() as stack:
        for each in _live(ledger, sweep, cache, open_backend, stack):
            if each.job.key not in wanted:
                continue
            owner = each.job.sweep or sweep
            if owner == sweep:
                _cancel_job(ledger, each)
                count += 1
                continue
            # Another sweep shares this trial and has its job: that sweep's runner ends it, where there is one.
            with held_if_free(runs, owner) as is_free:
                if is_free and ledger.adopt(each.job, sweep):
                    _cancel_job(ledger, each)
                    count += 1
                else:
                    shared = [trial.number for trial in ledger.trials(owner) if trial.key == each.job.key]
                    ledger.request_cancel(owner, shared)
                    owners[owner] = holder_of(runs, owner) or "another process"
        ledger.clear_cancel_requests(sweep)
    done = f"cancelled {count} {'job' if count == 1 else 'jobs'} of {sweep}, which is not running"
    requested = [_requested(holder, owner) for owner, holder in owners.items()]
    return "; ".join([done, *requested] if count or not requested else requested)


def _requested(holder: str, sweep: str) -> str:
    return f"asked {holder}, which runs {sweep}, to cancel; `tunerun status --sweep {sweep}` shows when it has"


def _live(ledger: Ledger, sweep: str, cache: Path, opener: BackendOpener, stack: ExitStack) -> Iterator[_Live]:
    jobs = {key: job for key, job in ledger.last_jobs(sweep).items() if not job.state.is_finished}
    opened: dict[str, Backend] = {}
    for trial in ledger.trials(sweep):
        job = jobs.pop(trial.key, None)
        if job is None:
            continue
        section = trial.settings.backend
        if str(section) not in opened:
            backend = stored_section(section)
            opened[str(section)] = stack.enter_context(opener(backend, ledger.path.parent, cache))
        yield _Live(trial, job, opened[str(section)])


def _cancel_job(ledger: Ledger, live: _Live) -> None:
    """Cancel a job and record its end; a job that may have been submitted is searched for first."""
    job, backend = live.job, live.backend
    # A job of this machine ended with its runner. On a cluster, or where the reference was not recorded, it may be
    # running, or may have never begun: cancel only what is found.
    ref = job.ref if live.is_hosted else None
    if ref is None and (live.is_hosted or backend.capabilities().outlives_kill):
        ref = backend.find(job.key, job.tuned_model_id or tuned_model_id(live.trial.settings.name, job.key))
    if ref is None:
        ledger.record(job.id, JobStatus(JobState.CANCELLED))
        return
    # The reference is recorded first: cancelling takes effect later, and a kill while it is waited for must not leave a
    # job that is only found by its key.
    if job.ref is None:
        ledger.submitted(job.id, ref)
    backend.cancel(ref)
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while time.monotonic() < deadline:
        status = backend.poll([ref])[ref]
        if status.state.is_finished:
            ledger.record(job.id, status)
            return
        time.sleep(0.1)  # a poll interval, not a retry: nothing has failed
    raise BackendError(
        f"{ref.id} has not ended within {CANCEL_TIMEOUT_S:g} s of being cancelled; run the same command again later"
    )
