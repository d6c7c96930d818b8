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
from dataclasses import replace
from heapq import heappop, heappush

from tunerun.backends.base import AnswersTogether, Backend
from tunerun.comparison import trial_result
from tunerun.errors import AccessError, AmbiguousError, BackendError, InputError, UnavailableError
from tunerun.job import Failure, FailureKind, JobRef, JobState, JobStatus, TunedModel, TuningRequest
from tunerun.ledger import JobRecord, Ledger
from tunerun.locks import held_if_free, holder_of
from tunerun.planning import Plan, Trial
from tunerun.retry import backoff_s
from tunerun.runner.backend_queue import BackendQueue, InFlight, is_lost
from tunerun.runner.progress import Progress
from tunerun.runner.run_budget import RunBudget
from tunerun.runner.trial_evaluator import RESUME, TrialEvaluator
from tunerun.schema import TrialConfig

MAX_BACKOFF_S = 60.0

WAIT_FOR_OTHERS_S = 0.05
"""Between two checks of a job that another sweep's runner watches. A check is one read of the ledger."""

MAX_PAUSE_S = 1.0
"""The longest sleep of the loop, so that a request to cancel is noticed within a second."""


class Loop:
    """One run of a plan. `run` returns when nothing is left to do, or nothing more may be done.

    Args:
        plan: what to run.
        ledger: open for writing; every state is recorded in it before and after each effect at a backend.
        backend_of: the backend of a trial's config, always the same object for the same section.
        progress: hooks that show the progress.
        unavailable: why a backend cannot be used in this run, by the backend's `id`.
        poll_interval_s: seconds between two polls of the running jobs; None: as their backends say.
        retry_failed: whether trials that failed earlier are submitted again.

    Attributes:
        stopped: why the run ended before every trial was tried; None: it did not.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        backend_of: Callable[[TrialConfig], Backend],
        progress: Progress,
        unavailable: Mapping[int, str],
        *,
        poll_interval_s: float | None,
        retry_failed: bool,
    ) -> None:
        self.stopped: str | None = None
        self._plan, self._ledger, self._progress = plan, ledger, progress
        self._config = plan.experiment.runner
        self._backend_of = backend_of
        self._poll_interval_s = poll_interval_s
        self._retry_failed = retry_failed
        self._unavailable = unavailable
        self._evaluator = TrialEvaluator(plan, ledger, progress)
        self._budget = RunBudget(plan, ledger)
        # A trial is in one of these: a place's ready queue, `_later`, `_in_flight`, `_ended` or `_earlier`.
        self._places: dict[int, BackendQueue] = {}
        self._later: list[tuple[float, int]] = []  # a heap: when to enqueue a trial again, and its number
        self._in_flight: dict[int, InFlight] = {}
        self._ended: list[InFlight] = []  # finished in this run, and not yet evaluated
        self._earlier: list[Trial] = []  # finished before, and not yet evaluated
        self._attempts: Counter[int] = Counter()
        self._noted: set[tuple[str, int]] = set()
        self._reasons: Counter[str] = Counter()
        self._has_succeeded = False

    def run(self) -> None:
        """Submit, poll, record and evaluate until every trial is finished, or the run is stopped."""
        unfinished = self._unfinished()
        self._progress.planned(unfinished)
        for trial in _run_by_run(unfinished):
            self._place(trial).enqueue(trial)

        while self._later or self._in_flight or self._ended or self._earlier or any(p.ready for p in self._all_places):
            self._obey_cancel_requests()
            self._obey_max_hours()
            self._submit_ready()
            self._poll()
            self._evaluate()
            self._pause()

        # A backend that was stopped did not stop the others, but the run is still incomplete.
        reasons = [self.stopped, *(place.stopped for place in self._all_places)]
        self.stopped = next((reason for reason in reasons if reason), None)

    @property
    def _all_places(self) -> Collection[BackendQueue]:
        return self._places.values()

    def _unfinished(self) -> list[Trial]:
        """The trials that need training, or answers of their tuned model or of a baseline."""
        progress = self._ledger.progress(self._plan.sweep)
        answered = self._ledger.answered(self._plan.sweep)
        unfinished = []
        for trial in self._plan.trials:
            if trial.same_as is not None:
                continue
            state = progress[trial.number].state
            if state is JobState.SUCCEEDED:
                self._has_succeeded = True
                is_done = self._evaluator.is_done(trial, answered)
            else:
                job = self._ledger.job(trial.key) if state.is_finished else None
                is_done = job is not None and not self._may_repeat(job)
            if not is_done:
                unfinished.append(trial)
        return unfinished

    def _may_repeat(self, job: JobRecord) -> bool:
        """Whether a finished job may be submitted again in this run."""
        if job.state is JobState.SUCCEEDED:
            return False
        return is_lost(job) or job.state is JobState.CANCELLED or self._retry_failed

    def _place(self, trial: Trial) -> BackendQueue:
        """The queue of a trial's backend."""
        backend = self._backend_of(trial.config)
        if id(backend) not in self._places:
            limits = backend.capabilities()
            interval_s = limits.poll_interval_s if self._poll_interval_s is None else self._poll_interval_s
            self._places[id(backend)] = BackendQueue(
                backend, limits.max_in_flight, interval_s, stopped=self._unavailable.get(id(backend))
            )
        return self._places[id(backend)]

    # Submitting

    def _submit_ready(self) -> None:
        """Submit the next trials of every place, as many as it takes."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            trial = self._plan.trials[heappop(self._later)[1]]
            self._place(trial).enqueue(trial)
        for place in self._all_places:
            while self.stopped is None and place.takes_one(now):
                self._start(place.ready.popleft(), place)
        if self.stopped is not None:
            self._later.clear()
            for place in self._all_places:
                place.ready.clear()

    def _start(self, trial: Trial, place: BackendQueue) -> None:
        """Submit a trial, or continue to watch a job that an earlier run or another sweep began."""
        last = self._ledger.job(trial.key)
        if last is not None and last.state.is_finished and not self._may_repeat(last):
            self._earlier.append(trial)
            return
        is_begun = last is not None and not last.state.is_finished
        if is_begun and last is not None and last.sweep != self._plan.sweep and not self._take_over(trial, last):
            return
        beside = [
            entry.trial
            for entry in self._in_flight.values()
            if entry.place is place and entry.trial.training_run == trial.training_run and not entry.is_cancelled
        ]
        if not is_begun and (refusal := self._budget.refusal(trial, beside)) is not None:
            self.stopped = refusal
            return

        # The intent is written before the request. A run that is killed after this line leaves the job SUBMITTING, and
        # the next run cannot know whether the request was sent: it submits again, which finds the job if there is one.
        request, cost = trial.request(), self._budget.cost(trial, beside)
        job = self._ledger.intend(request, trial.capabilities.kind, cost.tokens, sweep=self._plan.sweep, usd=cost.usd)
        if job.sweep != self._plan.sweep:  # another runner was quicker: wait for its job
            self._again(trial, WAIT_FOR_OTHERS_S)
            return
        if self._attempts[trial.number] == 0:
            self._progress.started(trial)
        if job.ref is not None:  # it was submitted before; the next poll gets its state
            self._watch(trial, place, job, job.ref)
            return
        self._attempts[trial.number] += 1
        if job.tuned_model_id is not None:
            # A sweep of another name may have begun it under its own id, and only that id finds it again.
            request = replace(request, tuned_model_id=job.tuned_model_id)
        if not is_begun:
            self._budget.add(cost)
        self._submit(trial, place, job, request)

    def _submit(self, trial: Trial, place: BackendQueue, job: JobRecord, request: TuningRequest) -> None:
        """Send a request to its backend; the table in this module's docstring says what each failure leads to."""
        attempt = self._attempts[trial.number]
        try:
            ref = place.backend.submit(request)
        except AmbiguousError as error:
            # A repeated submit finds the job if there is one; at the limit it stays SUBMITTING for the next run.
            if attempt < self._config.max_attempts:
                self._progress.note(f"trial {trial.number}: {error}; checking whether it was submitted")
                self._again(trial, backoff_s(attempt, self._config.backoff_s, MAX_BACKOFF_S))
            else:
                self._progress.note(f"trial {trial.number}: {error}; {RESUME} to look it up")
        except UnavailableError as error:
            self._attempts[trial.number] -= 1  # `unreachable_after_s` limits these attempts
            place.ready.appendleft(trial)  # it keeps its turn
            self._did_not_answer(place, error)
        except AccessError as error:
            # The call had no effect; the job stays SUBMITTING, and the next run submits it.
            place.stop(str(error))
        except (BackendError, InputError) as error:
            self._ledger.record(job.id, JobStatus(JobState.FAILED, failure=Failure(FailureKind.INVALID, str(error))))
            self._settle([trial])
        else:
            place.answered()
            # A kill before this write leaves the job SUBMITTING, as above; after it, the next run polls the reference.
            self._ledger.submitted(job.id, ref)
            self._watch(trial, place, job, ref)

    def _take_over(self, trial: Trial, job: JobRecord) -> bool:
        """Adopt a job whose sweep has no runner; else wait until that runner finishes it."""
        if job.sweep is None:
            return self._ledger.adopt(job, self._plan.sweep)
        # A job changes hands only while the lock of its sweep is held, so that never two runners own it. The lock is
        # released by the system when the runner that held it dies.
        with held_if_free(self._plan.runs, job.sweep) as is_free:
            if is_free:
                return self._ledger.adopt(job, self._plan.sweep)
        holder = holder_of(self._plan.runs, job.sweep) or "another process"
        self._note_once("waiting", trial, f"its job is run by sweep {job.sweep} ({holder}); waiting for it")
        self._again(trial, WAIT_FOR_OTHERS_S)
        return False

    def _obey_max_hours(self) -> None:
        """Once `budget.max_hours` is over, cancel jobs that wait in a queue of this machine; running ones finish."""
        queued = self._queued_here() if self.stopped is None else []
        if queued and (over := self._budget.over_hours()) is not None:
            self.stopped = over
            for entry in queued:
                self._cancel(entry)

    def _queued_here(self) -> list[InFlight]:
        """Jobs that wait in a queue of this machine; the queue of a service continues without this process."""
        return [
            entry
            for entry in self._in_flight.values()
            if entry.state in (JobState.SUBMITTING, JobState.QUEUED)
            and not entry.is_cancelled
            and not entry.place.backend.capabilities().survives_runner
        ]

    def _watch(self, trial: Trial, place: BackendQueue, job: JobRecord, ref: JobRef) -> None:
        place.in_flight += 1
        self._in_flight[trial.number] = InFlight(trial, place, job, ref, job.state, 0, time.monotonic())

    def _again(self, trial: Trial, wait_s: float) -> None:
        heappush(self._later, (time.monotonic() + wait_s, trial.number))

    def _did_not_answer(self, place: BackendQueue, error: BackendError) -> None:
        """Back off; stop using the backend in this run once `unreachable_after_s` has passed."""
        now = time.monotonic()
        if place.silent_since is None:
            place.silent_since = now
            self._progress.note(f"{error}; trying again for up to {self._config.unreachable_after_s:g} s")
        place.failures += 1
        place.resume_at = now + backoff_s(place.failures, self._config.backoff_s, MAX_BACKOFF_S, error)
        if place.resume_at - place.silent_since > self._config.unreachable_after_s:
            self._leave(place, f"{error}; no answer for {now - place.silent_since:.0f} s")

    def _is_stopped(self, place: BackendQueue) -> bool:
        return self.stopped is not None or place.stopped is not None

    def _leave(self, place: BackendQueue, reason: str) -> None:
        """Submit nothing more to a backend and stop watching it: hosted jobs continue, and the next run adopts them."""
        place.stop(reason)
        self._in_flight = {number: entry for number, entry in self._in_flight.items() if entry.place is not place}
        self._later = sorted(entry for entry in self._later if self._place(self._plan.trials[entry[1]]) is not place)

    # Watching

    def _poll(self) -> None:
        """Poll all jobs and record what is new, in one call and one transaction per backend."""
        now = time.monotonic()
        for place in self._all_places:
            entries = [entry for entry in self._in_flight.values() if entry.place is place]
            if not entries or max(place.resume_at, place.polled_at + place.poll_interval_s) > now:
                continue
            place.polled_at = now
            try:
                # What is new is decided here, once: the backend returns the steps after these cursors.
                cursors = {entry.ref: entry.last_step for entry in entries}
                statuses = place.backend.poll(list(cursors), cursors)
            except AccessError as error:
                self._leave(place, str(error))
                continue
            except BackendError as error:
                self._did_not_answer(place, error)
                continue
            place.answered()

            news = [(entry, statuses[entry.ref]) for entry in entries]
            changed = {e.job.id: status for e, status in news if status.snapshots or status.state is not e.state}
            # Recorded before it is shown. A kill before this write loses nothing: the next run's first poll returns the
            # whole curve, of which the ledger keeps each step once.
            if changed:
                self._ledger.record_all(changed)
            for entry, status in news:
                self._show(entry, status)
                if entry.state.is_finished:
                    self._ended.append(self._in_flight.pop(entry.trial.number))
                    place.in_flight -= 1

    def _show(self, entry: InFlight, status: JobStatus) -> None:
        """Report the new steps of a job, or once that it has stalled."""
        entry.state = status.state
        for snapshot in status.snapshots:
            entry.last_step = snapshot.step
            self._progress.stepped(entry.trial, snapshot)
        for note in status.notes:
            self._note_once(note, entry.trial, note)
        now = time.monotonic()
        if status.snapshots or status.state is not JobState.RUNNING:
            entry.stepped_at, entry.is_stalled = now, False
        elif now - entry.stepped_at > self._config.stall_after_s and not entry.is_stalled:
            # Reported and not cancelled: hosted jobs have been RUNNING for hours without a step (reports on Vertex and
            # Fireworks, read 2026-11-22), but cancelling one that is only slow would lose what was paid for.
            entry.is_stalled = True
            self._progress.note(
                f"trial {entry.trial.number} has stalled: no new step for {now - entry.stepped_at:.0f} s, at step "
                f"{entry.last_step} of {entry.trial.steps}; it is still watched; to end it: "
                f"tunerun cancel --sweep {self._plan.sweep} --trial {entry.trial.number}"
            )

    def _obey_cancel_requests(self) -> None:
        requested = self._ledger.cancel_requests(self._plan.sweep)
        if not requested:
            return
        trials = self._plan.trials
        requested = frozenset(trials[number].first for number in requested)
        for number in requested & self._in_flight.keys():
            self._cancel(self._in_flight[number])
        ready = {trial.number for place in self._all_places for trial in place.ready}
        waiting = ready | {number for _, number in self._later}
        given_up = {number for number in requested & waiting if self._give_up(trials[number])}
        for place in self._all_places:
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
        job = self._ledger.job(trial.key)
        if job is None or job.state is not JobState.SUBMITTING:
            return True
        place = self._place(trial)
        try:
            ref = place.backend.find(trial.key, job.tuned_model_id or trial.request().tuned_model_id)
        except BackendError as error:
            self._did_not_answer(place, error)
            return False
        if ref is None:
            self._ledger.record(job.id, JobStatus(JobState.CANCELLED))
        else:
            self._ledger.submitted(job.id, ref)
            self._watch(trial, place, job, ref)
        return True

    # Evaluating

    def _evaluate(self) -> None:
        """Evaluate the trials that have finished, together; meanwhile more may finish."""
        # Their ends are recorded. A run that is killed here finds at its next start which answers are missing.
        while self._ended or self._earlier:
            ended, self._ended = self._ended, []
            earlier, self._earlier = self._earlier, []
            self._settle([entry.trial for entry in ended if not self._is_resubmitted(entry)], earlier)

    def _is_resubmitted(self, entry: InFlight) -> bool:
        """Schedule a LOST job to be submitted again; whether that was done."""
        job = self._ledger.job(entry.trial.key)
        attempt = self._attempts[entry.trial.number]
        if job is not None and is_lost(job) and job.started_at is None:  # what never began costs nothing
            self._budget.recount()
        if job is None or not is_lost(job) or attempt >= self._config.max_attempts or self._is_stopped(entry.place):
            return False
        if attempt and job.failure is not None:
            self._progress.note(f"trial {entry.trial.number}: {job.failure.message}; submitting it again")
        # A job that was lost with the process of an earlier run begins at once.
        self._again(entry.trial, backoff_s(attempt, self._config.backoff_s, MAX_BACKOFF_S) if attempt else 0.0)
        return True

    def _settle(self, ended: Sequence[Trial], earlier: Sequence[Trial] = ()) -> None:
        """Measure finished trials and report them; later, where their backend does not answer now.

        Args:
            ended: finished in this run.
            earlier: finished before; not reported, unless their measurement was postponed.
        """
        is_new = {trial.number: True for trial in ended}
        is_new |= {trial.number: ("waiting", trial.number) in self._noted for trial in earlier}
        by_place: dict[int, list[Trial]] = {}
        for trial in (*ended, *earlier):
            by_place.setdefault(id(self._place(trial).backend), []).append(trial)
        groups: list[list[Trial]] = []
        for trials in by_place.values():
            is_together = isinstance(self._place(trials[0]).backend, AnswersTogether)
            groups += [trials] if is_together else [[trial] for trial in trials]

        for group in groups:
            trained: list[tuple[Trial, TunedModel]] = []
            for trial in group:
                job = self._ledger.job(trial.key)
                if job is not None:
                    self._count_failure(job)
                    if job.tuned_model is not None:
                        trained.append((trial, job.tuned_model))
            is_postponed = bool(trained) and not self._measure(trained)
            postponed = {trial.number for trial, _ in trained} if is_postponed else set()
            for trial in group:
                if trial.number in postponed:
                    self._noted.add(("waiting", trial.number))  # to be reported once it is measured
                elif is_new[trial.number]:
                    self._progress.finished(trial, trial_result(self._ledger, trial.record()))

    def _count_failure(self, job: JobRecord) -> None:
        """Stop the run at `runner.max_failures`: what fails every trial for one reason is not a trial's fault."""
        self._has_succeeded = self._has_succeeded or job.state is JobState.SUCCEEDED
        if job.failure is None or self._has_succeeded or self._config.max_failures is None:
            return
        self._reasons[job.failure.reason] += 1
        if self._reasons[job.failure.reason] >= self._config.max_failures:
            self.stopped = self.stopped or (
                f"{self._config.max_failures} trials failed for the same reason, and none has succeeded; "
                "fix the cause and run with --retry-failed, or raise runner.max_failures"
            )
            for entry in self._queued_here():
                self._cancel(entry)

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
            # A stopped backend is called at once, because its postponed trials would be dropped.
            if place.resume_at <= time.monotonic() or self._is_stopped(place):
                self._evaluator.measure(trained, place, is_stopped=is_stopped, answered=answered, waiting=waiting)
                return True
        except UnavailableError as error:
            self._did_not_answer(place, error)
        for trial, _ in trained:
            self._again(trial, max(0.0, place.resume_at - time.monotonic()))
        return False

    def _note_once(self, what: str, trial: Trial, text: str) -> None:
        if (what, trial.number) not in self._noted:
            self._noted.add((what, trial.number))
            self._progress.note(f"trial {trial.number}: {text}")

    def _pause(self) -> None:
        """Sleep until there may be something new; not at all if a trial can be submitted now."""
        now = time.monotonic()
        if any(place.takes_one(now) for place in self._all_places):
            return
        # Polling intervals, not retries: what failed waits in `_later` or behind its place's `resume_at`.
        if self._in_flight or any(place.ready for place in self._all_places):
            time.sleep(min(MAX_PAUSE_S, *(place.poll_interval_s for place in self._all_places)))
        elif self._later:
            time.sleep(min(max(0.0, self._later[0][0] - now), MAX_PAUSE_S))


def _run_by_run(trials: Sequence[Trial]) -> Iterator[Trial]:
    """The trials in the plan's order, with those of one training run next to each other, the longest first."""
    runs: dict[int, list[Trial]] = {}
    for trial in trials:
        runs.setdefault(trial.training_run, []).append(trial)
    # The shorter trials of a training run are epochs of the longest one. Submitted first it is paid for once, and they
    # are free.
    for of_run in runs.values():
        yield from sorted(of_run, key=lambda trial: -trial.steps)
