"""One loop for all jobs of a sweep: submit, poll, record, evaluate. Resumable at any instant.

The ledger is written before and after every outside effect, so that the same command, started again after Ctrl-C, a
crash or kill -9, looks up what is there and goes on with what is missing.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tunerun import schema
from tunerun.backends import open_backend
from tunerun.backends.base import Backend
from tunerun.engine.base_model import cache_folder
from tunerun.errors import AmbiguousError, BackendError, InputError, LedgerError, LockedError
from tunerun.evaluation.metrics import evaluate
from tunerun.evaluation.verdict import TrialResult, Verdict, judge, trial_result
from tunerun.job import (
    Failure,
    FailureKind,
    GenerateOptions,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TunedModel,
)
from tunerun.ledger import JobRecord, Ledger
from tunerun.planning import Plan, Trial
from tunerun.schema import Model, TrialConfig
from tunerun.tracking import Tracker, open_tracker

if TYPE_CHECKING:
    import pandas

MAX_ATTEMPTS = 3
"""How often one `run` submits a job whose worker was lost; a place that loses it thrice will lose it again."""

BackendOpener = Callable[[schema.Backend, Path, Path], Backend]

CLOSE_TIMEOUT_S = 30.0
"""How long the end of a run waits for the tracker; `tunerun sync` brings the rest."""


class Progress:
    """What the runner tells while it works; this one says nothing, others override what they want to show.

    Every method returns at once and never fails. The runner calls it from one thread.
    """

    def preparing(self, models: Sequence[str]) -> None:
        """The base models are looked for, and fetched or converted where that is needed."""

    def started(self, trial: Trial) -> None:
        """A trial is about to be submitted, or was found running."""

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        """A trial took a step; its last one is `trial.steps`."""

    def evaluating(self, subject: str) -> None:
        """Held-out examples are being answered by a trial's model or the base model."""

    def finished(self, trial: Trial, result: TrialResult) -> None:
        """A trial has ended, well or not."""

    def note(self, text: str) -> None:
        """Something needs attention, but does not stop the run."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        verdict: every trial with its measures, the baselines, and which trial to use.
        run_ids: MLflow's run ids by trial number; only those that MLflow has been told of.
        link: the page of MLflow that shows the runs, relative to the server's address; None without MLflow.
        tracking_problem: what MLflow has missed and why; None: nothing.
    """

    verdict: Verdict
    run_ids: Mapping[int, str]
    link: str | None
    tracking_problem: str | None

    @property
    def command(self) -> str:
        """The command that the sweep was started with."""
        return str(self.verdict.sweep.document["command"])

    @property
    def exit_code(self) -> int:
        """0: every trial succeeded; 1: at least one did not."""
        return 0 if all(t.state is JobState.SUCCEEDED for t in self.verdict.trials) else 1

    def to_json(self) -> dict[str, Any]:
        """The result as `run --json` prints it."""
        return {
            "sweep": self.verdict.sweep.id,
            "experiment": self.verdict.sweep.experiment,
            "trials": [self._trial(trial) for trial in self.verdict.trials],
            "baselines": [{"name": b.name, "metrics": dict(b.metrics)} for b in self.verdict.baselines],
            "best": self.verdict.best,
            "verdict": self.verdict.sentence,
        }

    def _trial(self, trial: TrialResult) -> dict[str, Any]:
        tuned = trial.tuned_model
        return {
            "number": trial.record.number,
            "key": trial.record.key,
            "overrides": dict(trial.record.overrides),
            "state": trial.state.value,
            "tuned_model": tuned.name if tuned else None,
            "adapter": tuned.location if tuned else None,
            "mlflow_run_id": self.run_ids.get(trial.record.number),
            "metrics": dict(trial.metrics),
            "advice": trial.advice.text if trial.advice else None,
            "error": f"{trial.failure.kind}: {trial.failure.message}" if trial.failure else None,
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row a trial: its number, what it varied, its state, its measures, its tuned model."""
        import pandas

        rows = [
            {
                "trial": t["number"],
                **t["overrides"],
                "state": t["state"],
                **t["metrics"],
                "tuned_model": t["tuned_model"],
            }
            for t in self.to_json()["trials"]
        ]
        return pandas.DataFrame(rows).set_index("trial")


def run(
    plan: Plan,
    *,
    progress: Progress | None = None,
    command: str = "tunerun.run",
    retry_failed: bool = False,
    poll_interval_s: float = 0.2,
    open_backend: BackendOpener = open_backend,
) -> SweepResult:
    """Run what is not done of a plan, and compare all of it.

    Args:
        plan: from `tunerun.plan`.
        progress: what to tell while it works; None: nothing.
        command: how it was started, for the record.
        retry_failed: submit trials again that failed before.
        poll_interval_s: seconds between two looks at the running jobs.
        open_backend: how a config's backend section becomes a backend; the seam for tests.

    Raises:
        InputError: a base model cannot be found, or the tracking URI is none; nothing was submitted.
        LockedError: another process runs this sweep; names it.
        LedgerError: the ledger cannot be written.
        KeyboardInterrupt: interrupted; the same call goes on with what is missing.
    """
    tracker = open_tracker(plan.experiment.tracking, plan.runs)
    with ExitStack() as stack:
        stack.enter_context(_sweep_lock(plan.runs, plan.sweep))
        backends = _Backends(plan, stack, open_backend)
        talk = progress or Progress()
        backends.prepare(plan.to_run(retry_failed=retry_failed), talk)
        ledger = stack.enter_context(Ledger(plan.ledger_path))
        ledger.freeze(plan.sweep_record(command), [t.record() for t in plan.trials], _example_sets(plan))
        try:
            if tracker is not None:
                tracker.start(plan.sweep)
            _Loop(plan, ledger, backends, talk, poll_interval_s, retry_failed).run()
        finally:
            if tracker is not None:
                tracker.close(CLOSE_TIMEOUT_S)
        return result_of(ledger, plan.sweep, tracker)


def result_of(ledger: Ledger, sweep_id: str, tracker: Tracker | None) -> SweepResult:
    """What the ledger, and MLflow where it is used, know of a sweep now."""
    sweep = next(s for s in ledger.sweeps() if s.id == sweep_id)
    verdict = judge(ledger, sweep)
    run_ids = {}
    for trial in verdict.trials:
        run_id = tracker.run_id(ledger, sweep_id, trial.record.number) if tracker else None
        if run_id is not None:
            run_ids[trial.record.number] = run_id
    link = tracker.link(ledger, sweep_id) if tracker else None
    return SweepResult(verdict, run_ids, link, tracker.problem if tracker else None)


def states_of(ledger: Ledger, sweep: str) -> dict[JobState, int]:
    """How many trials of a sweep are in which state."""
    jobs = [ledger.job(trial.key) for trial in ledger.trials(sweep)]
    return dict(Counter(JobState.PLANNED if job is None else job.state for job in jobs))


def holder_of(runs: Path, sweep: str) -> str | None:
    """Who runs a sweep now: the process, its machine and since when; None: nobody."""
    try:
        with FileLock(_lock_file(runs, sweep), timeout=0):
            return None
    except Timeout:
        holder = _lock_file(runs, sweep).with_suffix(".holder")
        return holder.read_text(encoding="utf-8") if holder.exists() else "another process"


def _lock_file(runs: Path, sweep: str) -> Path:
    return runs / "locks" / f"{sweep}.lock"


def _example_sets(plan: Plan) -> list[Any]:
    sets = [s for t in plan.trials for s in (t.training, t.validation) if s is not None]
    return list({s.digest: s for s in sets}.values())


@contextmanager
def _sweep_lock(runs: Path, sweep: str) -> Iterator[None]:
    """Hold a sweep; the lock goes with the process that holds it."""
    file = _lock_file(runs, sweep)
    holder = file.with_suffix(".holder")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockedError(
            f"{sweep} is being run by {holder_of(runs, sweep)}; wait for it or stop it, then run the same command again"
        ) from error
    except OSError as error:
        raise LedgerError(
            f"{file}: {error.strerror}; choose another paths.runs, or mend the disk or its rights"
        ) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


class _Backends:
    """The backends of a plan, opened when they are first needed and closed with the stack."""

    def __init__(self, plan: Plan, stack: ExitStack, opener: BackendOpener) -> None:
        self._opener = opener
        self._runs = plan.runs
        self._cache = cache_folder(plan.experiment.paths.cache)
        self._stack = stack
        self._open: dict[str, Backend] = {}

    def of(self, config: TrialConfig) -> Backend:
        section = config.backend.model_dump_json()
        if section not in self._open:
            backend = self._opener(config.backend, self._runs, self._cache)
            self._open[section] = self._stack.enter_context(backend)
        return self._open[section]

    def prepare(self, trials: Sequence[Trial], progress: Progress) -> None:
        """Have every base model found, or fetched, before anything is submitted."""
        models: dict[str, tuple[Backend, dict[str, Model]]] = {}
        for trial in trials:
            backend = self.of(trial.config)
            entry = models.setdefault(trial.config.backend.model_dump_json(), (backend, {}))
            entry[1][trial.config.model.model_dump_json()] = trial.config.model
        problems: list[str] = []
        for backend, wanted in models.values():
            progress.preparing([model.name for model in wanted.values()])
            try:
                backend.prepare(list(wanted.values()))
            except InputError as error:
                problems.extend(error.problems)
        if problems:
            raise InputError(problems)


@dataclass
class _InFlight:
    trial: Trial
    job: JobRecord
    ref: JobRef
    last_step: int = 0


@dataclass
class _Loop:
    """The trials of one run on their way from planned to evaluated."""

    plan: Plan
    ledger: Ledger
    backends: _Backends
    progress: Progress
    poll_interval_s: float
    retry_failed: bool
    in_flight: list[_InFlight] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        waiting = deque(trial for trial in self.plan.trials if trial.same_as is None)
        while waiting or self.in_flight:
            while waiting and self._has_room(waiting[0]):
                self._start(waiting.popleft())
            finished = self._poll()
            for entry in finished:
                self.in_flight.remove(entry)
                if not self._again(entry):
                    self._finish(entry.trial)
            if self.in_flight and not finished:
                time.sleep(self.poll_interval_s)

    def _has_room(self, trial: Trial) -> bool:
        backend = self.backends.of(trial.config)
        running = sum(self.backends.of(entry.trial.config) is backend for entry in self.in_flight)
        return running < backend.capabilities().max_in_flight

    def _start(self, trial: Trial) -> None:
        """Submit a trial, or take up what an earlier run has left of it."""
        last = self.ledger.job(trial.key)
        if last is not None and last.state.is_finished and not self._may_repeat(last):
            self._finish(trial, is_new=False)
            return
        if trial.key not in self.attempts:
            self.progress.started(trial)
        request = trial.request()
        job = self.ledger.intend(request, trial.config.backend.kind, trial.tokens)
        attempt = self.attempts.setdefault(trial.key, 0)
        if job.ref is not None:  # an earlier run submitted it; the next poll says what became of it
            self.in_flight.append(_InFlight(trial, job, job.ref))
            return
        self.attempts[trial.key] = attempt + 1
        try:
            ref = self.backends.of(trial.config).submit(request)
        except AmbiguousError as error:
            # Nobody knows whether the job runs. It stays SUBMITTING: the next run looks it up under its key.
            self.progress.note(f"trial {trial.number}: {error}; run the same command again to look it up")
            return
        except (BackendError, InputError) as error:
            self._fail(trial, job, Failure(FailureKind.INVALID, str(error)))
            return
        self.ledger.submitted(job.id, ref)
        self.in_flight.append(_InFlight(trial, job, ref))

    def _may_repeat(self, job: JobRecord) -> bool:
        if job.state is JobState.SUCCEEDED:
            return False
        lost = job.failure is not None and job.failure.kind is FailureKind.LOST
        return lost or job.state is JobState.CANCELLED or self.retry_failed

    def _poll(self) -> list[_InFlight]:
        """Record what is new of all jobs, one call for each backend; return the entries that have finished."""
        finished: list[_InFlight] = []
        by_backend: dict[int, tuple[Backend, list[_InFlight]]] = {}
        for entry in self.in_flight:
            backend = self.backends.of(entry.trial.config)
            by_backend.setdefault(id(backend), (backend, []))[1].append(entry)
        for backend, entries in by_backend.values():
            try:
                statuses = backend.poll([entry.ref for entry in entries])
            except BackendError as error:
                self.progress.note(f"{error}; asking again")
                continue
            finished.extend(entry for entry in entries if self._record(entry, statuses[entry.ref]))
        return finished

    def _record(self, entry: _InFlight, status: JobStatus) -> bool:
        self.ledger.record(entry.job.id, status)
        for snapshot in status.snapshots:
            if snapshot.step > entry.last_step:
                entry.last_step = snapshot.step
                self.progress.stepped(entry.trial, snapshot)
        return status.state.is_finished

    def _again(self, entry: _InFlight) -> bool:
        """Submit a job anew that was lost by no fault of its own; whether that was done."""
        job = self.ledger.job(entry.trial.key)
        lost = job is not None and job.failure is not None and job.failure.kind is FailureKind.LOST
        if not lost or self.attempts.get(entry.trial.key, 0) >= MAX_ATTEMPTS:
            return False
        self._start(entry.trial)
        return True

    def _fail(self, trial: Trial, job: JobRecord, failure: Failure) -> None:
        self.ledger.record(job.id, JobStatus(JobState.FAILED, failure=failure))
        self._finish(trial)

    def _finish(self, trial: Trial, *, is_new: bool = True) -> None:
        """Measure a tuned model and its base model, where that is still to be done, and tell of it."""
        job = self.ledger.job(trial.key)
        if job is not None and job.tuned_model is not None:
            self._evaluate(trial, trial.baseline, "the base model", trial.config.model)
            self._evaluate(trial, trial.key, f"trial {trial.number}", job.tuned_model)
        if is_new:
            self.progress.finished(trial, trial_result(self.ledger, trial.record()))

    def _evaluate(self, trial: Trial, subject: str, name: str, model: Model | TunedModel) -> None:
        config = trial.config.evaluation
        wanted = bool(config.metrics) and trial.validation is not None
        if not wanted or trial.validation is None or self.ledger.evaluation(subject, trial.evaluation) is not None:
            return
        self.progress.evaluating(name)
        options = GenerateOptions(
            config.generation.max_output_tokens, config.generation.temperature, seed=trial.config.seed
        )
        inputs = [example.text_input for example in trial.validation.examples]
        try:
            outputs = self.backends.of(trial.config).generate(model, inputs, options)
        except (BackendError, InputError) as error:
            # The tuned model is there all the same; the next run measures it.
            self.progress.note(f"{name} could not be evaluated: {error}; run the same command again")
            return
        self.ledger.evaluate(subject, trial.evaluation, evaluate(trial.validation.examples, outputs, config.metrics))
