"""The trials of one run on their way from planned to evaluated: submit, poll, record, evaluate.

What the runner does about a failure depends on who can fix it:

| what happens | what the runner does |
| --- | --- |
| network, rate limit, server error (`UnavailableError`) | tries again, up to `runner.unreachable_after_s` |
| unknown whether a submit took effect (`AmbiguousError`) | looks the job up, up to `runner.max_attempts` times |
| the worker is lost (`FailureKind.LOST`) | submits the trial again, up to `runner.max_attempts` times |
| refused, diverged, out of memory, crashed | fails the trial; `--retry-failed` tries again |
| credentials or quota (`AccessError`) | submits nothing more to that backend |
| the budget, `runner.max_failures` | submits nothing more |
| `budget.max_hours`, `runner.max_failures` | also cancels jobs of this machine that wait in its queue |

Each backend has its own ready queue, so one that is full, silent or refuses does not hold up the others.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from tunerun.backends.base import AnswersTogether, Backend
from tunerun.comparison import trial_result
from tunerun.errors import AccessError, AmbiguousError, BackendError, InputError, UnavailableError
from tunerun.job import Failure, FailureKind, JobRef, JobState, JobStatus, TunedModel
from tunerun.ledger import JobRecord, Ledger, Spending, TrialProgress
from tunerun.locks import held_if_free, holder_of
from tunerun.planning import Plan, Trial
from tunerun.planning.limits import Cost, over_budget
from tunerun.retry import backoff_s
from tunerun.runner.backend_queue import BackendQueue, InFlight, is_lost
from tunerun.runner.measuring import RESUME, Measuring
from tunerun.runner.progress import Progress
from tunerun.schema import TrialConfig

MAX_BACKOFF_S = 60.0

WAIT_FOR_OTHERS_S = 0.05
"""Between two checks of a job that another sweep's runner watches. A check is one read of the ledger."""

MAX_PAUSE_S = 1.0
"""The longest sleep of the loop, so that a request to cancel is noticed within a second."""


@dataclass
class Loop:
    """One run of a plan. `run` returns when nothing is left to do, or nothing more may be done.

    Args:
        backend_of: the backend of a trial's config, always the same object for the same section.
        poll_interval_s: seconds between two polls of the running jobs; None: as their backends say.
        unavailable: why a backend cannot be used in this run, by the backend's `id`.
        stopped: why the run ended before every trial was tried; None: it did not.
    """

    plan: Plan
    ledger: Ledger
    backend_of: Callable[[TrialConfig], Backend]
    progress: Progress
    poll_interval_s: float | None
    retry_failed: bool
    unavailable: Mapping[int, str] = field(default_factory=dict)
    stopped: str | None = None
    _later: list[tuple[float, int]] = field(default_factory=list)
    _in_flight: dict[int, InFlight] = field(default_factory=dict)
    _finished: deque[InFlight] = field(default_factory=deque)
    _found: list[Trial] = field(default_factory=list)
    _places: dict[int, BackendQueue] = field(default_factory=dict)
    _attempts: Counter[int] = field(default_factory=Counter)
    _noted: set[tuple[str, int]] = field(default_factory=set)
    _reasons: Counter[str] = field(default_factory=Counter)
    _has_succeeded: bool = False

    def run(self) -> None:
        """Submit, poll, record and evaluate until every trial is finished, or the run is stopped."""
        self.config = self.plan.experiment.runner
        self.measuring = Measuring(self.plan, self.ledger, self.progress)
        self._began_at = time.monotonic()
        self._spent: Spending = self.plan.with_baselines(self.ledger.spending(self.plan.sweep))
        unfinished = self._unfinished()
        self.progress.planned(unfinished)
        for trial in _run_by_run(unfinished):
            self._place(trial).enqueue(trial)
        while self._is_waiting() or self._in_flight or self._finished or self._found:
            self._obey_cancel_requests()
            self._obey_max_hours()
            self._submit()
            self._poll()
            self._finish()
            self._pause()
        # A backend that was stopped did not stop the others, but the run is still incomplete.
        reasons = [self.stopped, *(place.stopped for place in self._places.values())]
        self.stopped = next((reason for reason in reasons if reason), None)

    def _is_waiting(self) -> bool:
        return bool(self._later) or any(place.ready for place in self._places.values())

    def _unfinished(self) -> list[Trial]:
        progress = self.ledger.progress(self.plan.sweep)
        answered = self.ledger.answered(self.plan.sweep)
        return [
            trial
            for trial in self.plan.trials
            if trial.same_as is None and not self._is_settled(trial, progress[trial.number], answered)
        ]

    def _is_settled(self, trial: Trial, known: TrialProgress, answered: Collection[tuple[str, str, str]]) -> bool:
        """Whether nothing remains to be done for a trial and its baselines."""
        if known.state is JobState.SUCCEEDED:
            self._has_succeeded = True
            return self.measuring.is_done(trial, answered)
        job = self.ledger.job(trial.key) if known.state.is_finished else None
        return job is not None and not self._may_repeat(job)

    def _may_repeat(self, job: JobRecord) -> bool:
        if job.state is JobState.SUCCEEDED:
            return False
        return is_lost(job) or job.state is JobState.CANCELLED or self.retry_failed

    # Submitting

    def _submit(self) -> None:
        """Submit the next trials of every place, as many as it takes."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            trial = self.plan.trials[heappop(self._later)[1]]
            self._place(trial).enqueue(trial)
        for place in self._places.values():
            while self.stopped is None and place.takes_one(now):
                self._start(place.ready.popleft(), place)
        if self.stopped is not None:
            self._later.clear()
            for place in self._places.values():
                place.ready.clear()

    def _place(self, trial: Trial) -> BackendQueue:
        backend = self.backend_of(trial.config)
        if id(backend) not in self._places:
            known = backend.capabilities()
            interval_s = known.poll_interval_s if self.poll_interval_s is None else self.poll_interval_s
            self._places[id(backend)] = BackendQueue(
                backend, known.max_in_flight, interval_s, stopped=self.unavailable.get(id(backend))
            )
        return self._places[id(backend)]

    def _start(self, trial: Trial, place: BackendQueue) -> None:
        """Submit a trial, or continue to watch a job that an earlier run or another sweep began."""
        last = self.ledger.job(trial.key)
        if last is not None and last.state.is_finished and not self._may_repeat(last):
            self._found.append(trial)
            return
        is_begun = last is not None and not last.state.is_finished
        if is_begun and last is not None and last.sweep != self.plan.sweep and not self._take_over(trial, last):
            return
        more = self._cost_beside(trial, place)
        if not is_begun and not self._may_spend(trial, place):
            return
        request = trial.request()
        job = self.ledger.intend(request, trial.capabilities.kind, more.tokens, sweep=self.plan.sweep, usd=more.usd)
        if job.sweep != self.plan.sweep:  # another runner was quicker: wait for its job
            self._again(trial, WAIT_FOR_OTHERS_S)
            return
        if self._attempts[trial.number] == 0:
            self.progress.started(trial)
        if job.ref is not None:  # it was submitted before; the next poll gets its state
            self._watch(trial, place, job, job.ref)
            return
        self._attempts[trial.number] += 1
        if job.tuned_model_id is not None:
            # A sweep of another name may have begun it under its own id, and only that id finds it again.
            request = replace(request, tuned_model_id=job.tuned_model_id)
        if not is_begun:
            self._spent = Spending(self._spent.jobs + 1, self._spent.tokens + more.tokens, self._spent.usd + more.usd)
        try:
            ref = place.backend.submit(request)
        except AmbiguousError as error:
            self._look_again(trial, error)
        except UnavailableError as error:
            self._attempts[trial.number] -= 1
            place.ready.appendleft(trial)
            self._did_not_answer(place, error)
        except AccessError as error:
            # The call had no effect; the job stays SUBMITTING, and the next run submits it.
            place.stop(str(error))
        except (BackendError, InputError) as error:
            self.ledger.record(job.id, JobStatus(JobState.FAILED, failure=Failure(FailureKind.INVALID, str(error))))
            self._settle([trial])
        else:
            place.answered()
            self.ledger.submitted(job.id, ref)
            self._watch(trial, place, job, ref)

    def _take_over(self, trial: Trial, job: JobRecord) -> bool:
        """Adopt a job whose sweep has no runner; else wait until that runner finishes it."""
        if job.sweep is None:
            return self.ledger.adopt(job, self.plan.sweep)
        with held_if_free(self.plan.runs, job.sweep) as is_free:
            if is_free:
                return self.ledger.adopt(job, self.plan.sweep)
        holder = holder_of(self.plan.runs, job.sweep) or "another process"
        self._note_once("waiting", trial, f"its job is run by sweep {job.sweep} ({holder}); waiting for it")
        self._again(trial, WAIT_FOR_OTHERS_S)
        return False

    def _cost_beside(self, trial: Trial, place: BackendQueue, *, at_most: bool = False) -> Cost:
        """The extra cost of a trial: steps that its training run takes for trials under way are already paid."""
        others = [
            entry.trial
            for entry in self._in_flight.values()
            if entry.place is place and entry.trial.training_run == trial.training_run and not entry.is_cancelled
        ]
        return self.plan.cost([*others, trial], at_most=at_most) - self.plan.cost(others, at_most=at_most)

    def _may_spend(self, trial: Trial, place: BackendQueue) -> bool:
        refusals = (
            over_budget(self.plan.experiment.budget, self._spent, self._cost_beside(trial, place, at_most=True))
            or self._over_max_hours
        )
        if refusals:
            self._stop(refusals[0])
        return not refusals

    @property
    def _over_max_hours(self) -> list[str]:
        most, hours = self.plan.experiment.budget.max_hours, (time.monotonic() - self._began_at) / 3600
        if most is None or hours < most:
            return []
        return [f"budget.max_hours: this run has taken {hours:.2g} hours; raise it, or {RESUME}"]

    def _obey_max_hours(self) -> None:
        """Once `budget.max_hours` is over, cancel jobs that wait in a queue of this machine; running ones finish."""
        if self.stopped is None and self._queued_here and (over := self._over_max_hours):
            self._stop(over[0])
            self._drop_queued()

    @property
    def _queued_here(self) -> list[InFlight]:
        """Jobs that wait in a queue of this machine; the queue of a service continues without this process."""
        return [
            entry
            for entry in self._in_flight.values()
            if entry.state in (JobState.SUBMITTING, JobState.QUEUED)
            and not entry.is_cancelled
            and not entry.place.backend.capabilities().survives_runner
        ]

    def _drop_queued(self) -> None:
        for entry in self._queued_here:
            self._cancel(entry)

    def _watch(self, trial: Trial, place: BackendQueue, job: JobRecord, ref: JobRef) -> None:
        place.in_flight += 1
        self._in_flight[trial.number] = InFlight(trial, place, job, ref, job.state, 0, time.monotonic())

    def _look_again(self, trial: Trial, error: AmbiguousError) -> None:
        """Retry an ambiguous submit, which finds an existing job; at the limit it stays SUBMITTING for the next run."""
        attempt = self._attempts[trial.number]
        if attempt < self.config.max_attempts:
            self.progress.note(f"trial {trial.number}: {error}; checking whether it was submitted")
            self._again(trial, backoff_s(attempt, self.config.backoff_s, MAX_BACKOFF_S))
        else:
            self.progress.note(f"trial {trial.number}: {error}; {RESUME} to look it up")

    def _again(self, trial: Trial, wait_s: float) -> None:
        heappush(self._later, (time.monotonic() + wait_s, trial.number))

    def _did_not_answer(self, place: BackendQueue, error: BackendError) -> None:
        """Back off; stop using the backend in this run once `unreachable_after_s` has passed."""
        now = time.monotonic()
        if place.silent_since is None:
            place.silent_since = now
            self.progress.note(f"{error}; trying again for up to {self.config.unreachable_after_s:g} s")
        place.failures += 1
        place.resume_at = now + backoff_s(place.failures, self.config.backoff_s, MAX_BACKOFF_S, error)
        if place.resume_at - place.silent_since > self.config.unreachable_after_s:
            self._leave(place, f"{error}; no answer for {now - place.silent_since:.0f} s")

    def _stop(self, reason: str) -> None:
        """Submit nothing more anywhere; jobs under way are still watched."""
        self.stopped = self.stopped or reason

    def _is_stopped(self, place: BackendQueue) -> bool:
        return self.stopped is not None or place.stopped is not None

    def _leave(self, place: BackendQueue, reason: str) -> None:
        """Submit nothing more to a backend and stop watching it: hosted jobs continue, and the next run adopts them."""
        place.stop(reason)
        self._in_flight = {number: entry for number, entry in self._in_flight.items() if entry.place is not place}
        self._later = sorted(entry for entry in self._later if self._place(self.plan.trials[entry[1]]) is not place)

    # Watching

    def _poll(self) -> None:
        """Poll all jobs and record what is new, in one call and one transaction per backend."""
        now = time.monotonic()
        for place in self._places.values():
            entries = [entry for entry in self._in_flight.values() if entry.place is place]
            if not entries or max(place.resume_at, place.polled_at + place.poll_interval_s) > now:
                continue
            place.polled_at = now
            try:
                cursors = {entry.ref: entry.last_step for entry in entries}
                statuses = place.backend.poll(list(cursors), cursors)
            except AccessError as error:
                self._leave(place, str(error))
                continue
            except BackendError as error:
                self._did_not_answer(place, error)
                continue
            place.answered()
            self._record(entries, statuses)

    def _record(self, entries: Sequence[InFlight], statuses: Mapping[JobRef, JobStatus]) -> None:
        news = {entry.job.id: statuses[entry.ref] for entry in entries}
        changed = {e.job.id for e in entries if news[e.job.id].snapshots or news[e.job.id].state is not e.state}
        if changed:
            self.ledger.record_all({job: news[job] for job in changed})
        for entry in entries:
            self._show(entry, news[entry.job.id])
            if entry.state.is_finished:
                self._finished.append(self._in_flight.pop(entry.trial.number))
                entry.place.in_flight -= 1

    def _show(self, entry: InFlight, status: JobStatus) -> None:
        entry.state = status.state
        for snapshot in status.snapshots:
            entry.last_step = snapshot.step
            self.progress.stepped(entry.trial, snapshot)
        for note in status.notes:
            self._note_once(note, entry.trial, note)
        now = time.monotonic()
        if status.snapshots or status.state is not JobState.RUNNING:
            entry.stepped_at, entry.is_stalled = now, False
        elif now - entry.stepped_at > self.config.stall_after_s and not entry.is_stalled:
            entry.is_stalled = True
            self.progress.note(
                f"trial {entry.trial.number} has stalled: no new step for {now - entry.stepped_at:.0f} s, at step "
                f"{entry.last_step} of {entry.trial.steps}; it is still watched; to end it: "
                f"tunerun cancel --sweep {self.plan.sweep} --trial {entry.trial.number}"
            )

    def _obey_cancel_requests(self) -> None:
        requested = self.ledger.cancel_requests(self.plan.sweep)
        if not requested:
            return
        trials = self.plan.trials
        requested = frozenset(trials[number].first for number in requested)
        for number in requested & self._in_flight.keys():
            self._cancel(self._in_flight[number])
        ready = {trial.number for place in self._places.values() for trial in place.ready}
        waiting = ready | {number for _, number in self._later}
        given_up = {number for number in requested & waiting if self._give_up(trials[number])}
        for place in self._places.values():
            place.ready = deque(trial for trial in place.ready if trial.number not in given_up)
        self._later = sorted(entry for entry in self._later if entry[1] not in given_up)

    def _cancel(self, entry: InFlight) -> None:
        if entry.is_cancelled:
            return
        entry.is_cancelled = True
        try:
            entry.place.backend.cancel(entry.ref)
        except BackendError as error:
            entry.is_cancelled = False
            self._did_not_answer(entry.place, error)

    def _give_up(self, trial: Trial) -> bool:
        """Cancel a waiting trial. A job that may have been submitted (SUBMITTING) is looked up first.

        Returns:
            False: its backend did not answer, so it is tried again later.
        """
        job = self.ledger.job(trial.key)
        if job is None or job.state is not JobState.SUBMITTING:
            return True
        place = self._place(trial)
        try:
            ref = place.backend.find(trial.key, job.tuned_model_id or trial.request().tuned_model_id)
        except BackendError as error:
            self._did_not_answer(place, error)
            return False
        if ref is None:
            self.ledger.record(job.id, JobStatus(JobState.CANCELLED))
        else:
            self.ledger.submitted(job.id, ref)
            self._watch(trial, place, job, ref)
        return True

    def _finish(self) -> None:
        """Measure the trials that have finished, together; meanwhile more may finish."""
        while self._finished or self._found:
            finished, self._finished = [*self._finished], deque()
            found, self._found = self._found, []
            ended = [entry.trial for entry in finished if not self._was_lost(entry)]
            self._settle(ended, found)

    def _was_lost(self, entry: InFlight) -> bool:
        """Schedule a LOST job to be submitted again; whether that was done."""
        job = self.ledger.job(entry.trial.key)
        attempt = self._attempts[entry.trial.number]
        if job is not None and is_lost(job) and job.started_at is None:  # what never began costs nothing
            self._spent = self.plan.with_baselines(self.ledger.spending(self.plan.sweep))
        if job is None or not is_lost(job) or attempt >= self.config.max_attempts or self._is_stopped(entry.place):
            return False
        if attempt and job.failure is not None:
            self.progress.note(f"trial {entry.trial.number}: {job.failure.message}; submitting it again")
        # A job that was lost with the process of an earlier run begins at once.
        wait_s = backoff_s(attempt, self.config.backoff_s, MAX_BACKOFF_S) if attempt else 0.0
        self._again(entry.trial, wait_s)
        return True

    def _settle(self, ended: Sequence[Trial], found: Sequence[Trial] = ()) -> None:
        """Measure finished trials and report them; later, where their backend does not answer now.

        Args:
            ended: finished in this run.
            found: finished before; not reported, unless their measurement was postponed.
        """
        is_new = {trial.number: True for trial in ended}
        is_new |= {trial.number: ("waiting", trial.number) in self._noted for trial in found}
        by_place: dict[int, list[Trial]] = {}
        for trial in (*ended, *found):
            by_place.setdefault(id(self._place(trial).backend), []).append(trial)
        for trials in by_place.values():
            is_together = isinstance(self._place(trials[0]).backend, AnswersTogether)
            for group in [trials] if is_together else [[trial] for trial in trials]:
                self._settle_group(group, is_new)

    def _settle_group(self, trials: Sequence[Trial], is_new: Mapping[int, bool]) -> None:
        trained: list[tuple[Trial, TunedModel]] = []
        for trial in trials:
            job = self.ledger.job(trial.key)
            if job is not None:
                self._count_failure(job)
                if job.tuned_model is not None:
                    trained.append((trial, job.tuned_model))
        is_put_off = bool(trained) and not self._measure(trained)
        put_off = {trial.number for trial, _ in trained} if is_put_off else set()
        for trial in trials:
            if trial.number in put_off:
                self._noted.add(("waiting", trial.number))  # to be reported once it is measured
            elif is_new[trial.number]:
                self.progress.finished(trial, trial_result(self.ledger, trial.record()))

    def _count_failure(self, job: JobRecord) -> None:
        self._has_succeeded = self._has_succeeded or job.state is JobState.SUCCEEDED
        if job.failure is None or self._has_succeeded or self.config.max_failures is None:
            return
        self._reasons[job.failure.reason] += 1
        if self._reasons[job.failure.reason] >= self.config.max_failures:
            self._stop(
                f"{self.config.max_failures} trials failed for the same reason, and none has succeeded; "
                "fix the cause and run with --retry-failed, or raise runner.max_failures"
            )
            self._drop_queued()

    def _measure(self, trained: Sequence[tuple[Trial, TunedModel]]) -> bool:
        """Measure tuned models of one place and their baselines, as far as answers are missing.

        Returns:
            False: postponed, because the backend does not answer now.
        """
        place = self._place(trained[0][0])

        def waiting() -> None:
            """Watch the other jobs while a call is answered, because that may take long."""
            self._obey_cancel_requests()
            self._poll()

        def answered() -> None:
            place.answered()
            waiting()

        def is_stopped() -> bool:
            return self._is_stopped(place)

        try:
            if place.resume_at <= time.monotonic() or self._is_stopped(place):
                self.measuring.measure(trained, place, is_stopped=is_stopped, answered=answered, waiting=waiting)
                return True
        except UnavailableError as error:
            self._did_not_answer(place, error)
        for trial, _ in trained:
            self._again(trial, max(0.0, place.resume_at - time.monotonic()))
        return False

    def _note_once(self, what: str, trial: Trial, text: str) -> None:
        if (what, trial.number) not in self._noted:
            self._noted.add((what, trial.number))
            self.progress.note(f"trial {trial.number}: {text}")

    def _pause(self) -> None:
        """Sleep until there may be something new; not at all if a trial can be submitted now."""
        now = time.monotonic()
        if any(place.takes_one(now) for place in self._places.values()):
            return
        if self._in_flight or any(place.ready for place in self._places.values()):
            time.sleep(min(MAX_PAUSE_S, *(place.poll_interval_s for place in self._places.values())))
        elif self._later:
            time.sleep(min(max(0.0, self._later[0][0] - now), MAX_PAUSE_S))


def _run_by_run(trials: Sequence[Trial]) -> Iterator[Trial]:
    """The trials in the plan's order, with those of one training run next to each other, the longest first."""
    runs: dict[int, list[Trial]] = {}
    for trial in trials:
        runs.setdefault(trial.training_run, []).append(trial)
    for of_run in runs.values():
        yield from sorted(of_run, key=lambda trial: -trial.steps)
