"""The work queue of one engine, and the threads that send work to the engine's process and read its reports.

`backlog` decides what is started when, and `engine_session` which work caused the death of an engine. The process
starts with the first work, and is restarted after it died. A process that does not react to a request to stop a job is
killed, wherever it runs; its other jobs continue in the next process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from tunerun.backends.local.backlog import Backlog
from tunerun.backends.local.engine_calls import BlockingCall, EngineWork, PromptBatch, QueuedPrompt
from tunerun.backends.local.engine_session import EngineSession, Job
from tunerun.engine import messages
from tunerun.errors import AccessError, BackendError, InputError
from tunerun.generation import Answer, AnswerPart
from tunerun.job import BaseModelRef, Failure, FailureKind
from tunerun.workers.base import Worker

_REFUSED_PAUSE_S = 1.0
"""Seconds between two attempts to start an engine that this machine's limits prevent from starting. Our choice. No
attempt is the last, because callers get an error at once and decide themselves when to give up."""

SILENCE_S = 300.0
"""Seconds without a report after which an engine with an open request to stop a job is killed. It reports every step,
and the longest measured step took 57 s (`engine.process.ENVIRONMENT`); before the first step it loads a base model,
which takes minutes from a slow disk. Time during a call does not count, as a call reports nothing until it is done. Our
choice."""

_MAX_LOST = 3
"""Engines that may be lost in a row, with no job ending in between, before the jobs fail as lost. Without it, a time
limit of the cluster shorter than an epoch would be retried forever. Our choice."""

_CLOSED = Failure(FailureKind.LOST, "the runner ended while this job was under way; run the command again")


class EngineQueue:
    """The queue of one engine and its process. Safe to use from any thread.

    Args:
        start: starts an engine's process, on this machine or on a cluster.
        train: returns the command to train jobs. Its second argument limits how many training runs share a pass;
            None: as many as the engine's settings allow.
        lock: a lock to share with other queues; None: the queue makes its own.
        silence_s: see `SILENCE_S`.

    Attributes:
        lock: guards the queue and the state of the work in it.
        refusal: why the last attempt to start the process failed; None: it succeeded.
    """

    def __init__(
        self,
        start: Callable[[], Worker],
        train: Callable[[Sequence[Job], int | None], messages.Train],
        lock: threading.Condition | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.lock = lock or threading.Condition()
        self.refusal: str | None = None
        self._start = start
        self._train = train
        self._silence_s = silence_s
        self._backlog = Backlog()
        self._stops: dict[str, messages.Cancel] = {}  # requests to stop, by id of a job or prompt
        self._most: dict[BaseModelRef, int] = {}  # limit of training runs per pass, after an engine died with more
        self._is_memory_short: set[BaseModelRef] = set()  # base models whose limit in `_most` is due to memory
        self._lost = 0  # engines lost since the last job ended
        self._session: EngineSession | None = None
        self._watch: threading.Timer | None = None  # checks for `silence_s` while a request to stop a job is open
        self._sender: threading.Thread | None = None
        self._listener: threading.Thread | None = None
        self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """PID of the process on this machine; None: it is not running."""
        session = self._session
        return session.worker.process_id if session is not None else None

    @property
    def is_open(self) -> bool:
        """Whether the queue accepts work."""
        return not self._is_closed

    @property
    def calls_waiting(self) -> int:
        """Number of queued calls and prompts."""
        return len(self._backlog.calls)

    @property
    def jobs(self) -> list[Job]:
        """The queued and running jobs."""
        under_way = [] if self._session is None else [*self._session.jobs.values()]
        return [*under_way, *self._backlog.jobs, *self._backlog.added]

    @property
    def load(self) -> int:
        """Number of jobs, calls and prompts that are queued or running."""
        is_calling = self._session is not None and self._session.call is not None
        return self.calls_waiting + is_calling + len(self.jobs)

    # Adding work

    def call(self, command: messages.Call, on_part: Callable[[int, AnswerPart], None] | None = None) -> messages.Report:
        """Execute a command, and block until its last report.

        Args:
            command: the command.
            on_part: called with the position of an input and each new part of its answer, from another thread.

        Raises:
            InputError: the engine refused the command.
            BackendError: the engine died, or the queue was closed.
        """
        call = BlockingCall(command, on_part)
        with self.lock:
            self.check_open()
            self._backlog.calls.append(call)
            self._wake()
        return call.answer.result()

    def ask(self, prompts: Sequence[QueuedPrompt]) -> None:
        """Queue prompts; their futures are resolved from another thread."""
        with self.lock:
            self.check_open()
            self._backlog.calls.extend(prompts)
            self._wake()

    def adopt(self, worker: Worker, jobs: Sequence[Job]) -> bool:
        """Take over a running engine with its jobs; False: the queue already has an engine or work."""
        with self.lock:
            self.check_open()
            if self._session is not None or self.load:
                return False
            self._begin_session(worker).give_jobs(jobs)
            self._wake()
            return True

    def add_job(self, job: Job) -> None:
        """Append a job; it can start once `begin` is called."""
        with self.lock:
            self.check_open()
            self._backlog.added.append(job)

    def begin(self) -> None:
        """Allow the jobs that were added to start."""
        with self.lock:
            if self.is_open and self._backlog.begin():
                self._wake()

    def _wake(self) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._serve, name="tunerun-local", daemon=True)
            self._sender.start()
        self.lock.notify_all()

    def check_open(self) -> None:
        """Check that the queue accepts work.

        Raises:
            BackendError: it was closed.
        """
        if self._is_closed:
            raise BackendError("the backend `local` was closed; open another one")

    def cancel_answer(self, answer: Future[Answer]) -> None:
        """Cancel a prompt: a queued one is dropped, a running one ends at the next token."""
        with self.lock:
            current = None if self._session is None else self._session.call
            if answer.cancel():
                self._backlog.drop_prompt(answer)
            elif isinstance(current, PromptBatch) and not answer.done():
                for position, each in enumerate(current.prompts):
                    if each.answer is answer:
                        self._stop(messages.Cancel(current.generate.answer_id(position)))

    def refuse_prompts(self, error: Exception) -> None:
        """Fail every queued prompt with an error."""
        with self.lock:
            self._backlog.refuse_prompts(error)

    def cancel(self, job: Job, *, pauses: bool = False) -> bool:
        """Stop a job: immediately if it is queued, otherwise before its next step.

        Args:
            job: the job.
            pauses: whether to save its training state, so that it can be resumed.

        Returns:
            Whether the job was in this queue.
        """
        with self.lock:
            if self._backlog.cancel(job):
                return True
            if self._session is None or job.id not in self._session.jobs:
                return False
            self._stop(messages.Cancel(job.id, pauses))
            return True

    def _stop(self, command: messages.Cancel) -> None:
        self._stops[command.job] = command
        if self._session is not None:
            # In a thread of its own: the pipe to an engine that hangs may be full, and the queue's lock is held here.
            sent = threading.Thread(
                target=self._session.worker.send, args=(command,), name="tunerun-cancel", daemon=True
            )
            sent.start()
            if self._watch is None:
                self._watch_for_silence(self._session)

    def _watch_for_silence(self, session: EngineSession) -> None:
        self._watch = threading.Timer(self._silence_s, self._end_if_silent, (session, session.reports))
        self._watch.daemon = True
        self._watch.start()

    def _end_if_silent(self, session: EngineSession, reports: int) -> None:
        """Kill an engine that has not reported since a request to stop a job; check again later if it has."""
        with self.lock:
            self._watch, current = None, self._session
            if current is None or self._stops.keys().isdisjoint(current.jobs):
                return
            if current is not session or current.call is not None or current.reports != reports:
                self._watch_for_silence(current)
                return
            session.is_given_up = True
        session.worker.end()

    # The thread that sends

    def _serve(self) -> None:
        try:
            while self._send_next():
                pass
        finally:  # however this thread ends, no caller may block forever
            self._settle_all()

    def _send_next(self) -> bool:
        """Wait for work that can be sent, and send it; return False once the queue was closed."""
        with self.lock:
            backlog = self._backlog
            self.lock.wait_for(
                lambda: self._is_closed or backlog.next_call(self._session) or backlog.next_jobs(self._session)
            )
            if self._is_closed:
                return False
            if self._session is None and not self._open_session():
                return True
            session = self._session
            first = backlog.next_call(session)
            work = backlog.take_call(first) if first is not None else backlog.next_jobs(session)
            if session is None or not work:
                return True
            # Recorded before it is sent: an engine that dies in between leaves it to `_requeue_after_death`.
            if isinstance(work, list):
                backlog.take_jobs(work)
                session.give_jobs(work)
            else:
                session.give_call(work)
        self._send(work)
        return True

    def _open_session(self) -> bool:
        """Start the engine. If that fails the jobs stay queued: this machine's limits are not their fault."""
        try:
            worker = self._start()
        except OSError as error:
            self.refusal = (
                f"the engine's process cannot start: {error.strerror}; raise this machine's limits (ulimit -n for open "
                "files, -u for processes) or free its memory, then run the same command again"
            )
            while self._backlog.calls:
                if (call := self._backlog.take_call(self._backlog.calls[0])) is not None:
                    call.refuse(AccessError(self.refusal))
            self.lock.wait(_REFUSED_PAUSE_S)
            return False
        self._begin_session(worker)
        return True

    def _begin_session(self, worker: Worker) -> EngineSession:
        self.refusal = None
        self._session = session = EngineSession(worker)
        self._listener = threading.Thread(target=self._listen, args=(session,), name="tunerun-engine", daemon=True)
        self._listener.start()
        return session

    def _send(self, work: EngineWork | list[Job]) -> None:
        """Send work to the engine; what cannot be sent fails."""
        if isinstance(work, list):
            self._send_jobs(work)
            return
        try:
            self._send_command(work.command())
        except (InputError, ValueError) as error:
            with self.lock:
                if self._session is not None and self._session.call is work:
                    self._session.call = None
                if isinstance(error, InputError):
                    work.refuse(error)
                else:
                    work.settle(_not_sent(error))

    def _send_jobs(self, jobs: Sequence[Job]) -> None:
        try:
            self._send_command(self._train(jobs, self._most.get(jobs[0].request.model)))
        except ValueError as error:
            # One job of a pack has the invalid text. Sent one by one, only that one fails.
            if len(jobs) > 1:
                for job in jobs:
                    self._send_jobs([job])
                return
            with self.lock:
                if self._session is not None:
                    self._session.jobs.pop(jobs[0].id, None)
                jobs[0].settle(_not_sent(error))

    def _send_command(self, command: messages.Command) -> None:
        with self.lock:
            session, stops = self._session, [*self._stops.values()]
        if session is not None:  # otherwise the engine died, and `_requeue_after_death` handles its work
            session.worker.send(command)
            for stop in stops:
                session.worker.send(stop)

    # The thread that listens

    def _listen(self, session: EngineSession) -> None:
        try:
            while (report := session.worker.receive()) is not None:
                with self.lock:
                    session.take(report)
                    if isinstance(report, messages.JobEnded):
                        self._lost = 0
                    call = session.call
                    answers = call.generate.id if isinstance(call, PromptBatch) else None
                    # Every stop request is sent with each command, so those of ended work are dropped.
                    self._stops = {
                        name: stop
                        for name, stop in self._stops.items()
                        if name in session.jobs or name.partition(".")[0] == answers
                    }
                    if session.model is None and not self._backlog.jobs:  # limits that only served to find a bad job
                        self._most = {model: n for model, n in self._most.items() if model in self._is_memory_short}
                    self.lock.notify_all()
        except BaseException:  # raised again: an engine without a listener would block its callers forever
            session.worker.end()
            raise
        finally:
            self._requeue_after_death(session)

    def _requeue_after_death(self, session: EngineSession) -> None:
        """Fail or queue again the unfinished work of an engine that died."""
        failure = session.worker.death()
        with self.lock:
            self._session = None
            if self._is_closed:
                session.close(_CLOSED)
            else:
                model = session.model
                is_lost = failure.kind is FailureKind.LOST and not session.is_given_up
                self._lost += is_lost and model is not None  # losing an idle one, such as a Slurm job, affects no job
                left = session.died(failure, stopped=self._stops, is_last_try=self._lost >= _MAX_LOST)
                # An engine that vanished with its node says nothing about memory, and one that this queue killed
                # neither. A local process that ended by SIGKILL counts as OUT_OF_MEMORY unless the kernel's own count
                # of OOM kills says otherwise (`engine.process.failure_of_exit`), so the OOM killer still halves the
                # pack.
                if model is not None and not is_lost and not session.is_given_up:
                    if left.most is None:  # the job that failed alone was found
                        self._most.pop(model, None)
                        self._is_memory_short.discard(model)
                    else:
                        self._most[model] = left.most
                        if failure.kind is FailureKind.OUT_OF_MEMORY:
                            self._is_memory_short.add(model)
                self._backlog.take_back(left)
            self._stops.clear()
            self.lock.notify_all()

    def _settle_all(self) -> None:
        """Fail all remaining work, since no engine will run it."""
        with self.lock:
            self._is_closed = True
            if self._session is not None:
                self._session.close(_CLOSED)
            self._backlog.settle(_CLOSED)

    def close(self) -> None:
        """Kill the process without waiting for its work, and fail everything that is queued."""
        with self.lock:
            self._is_closed = True
            session, threads = self._session, (self._sender, self._listener)
            if self._watch is not None:
                self._watch.cancel()
            self.lock.notify_all()
        if session is not None:
            session.worker.end()
        for thread in threads:
            if thread is not None:
                thread.join()
        self._settle_all()


def _not_sent(error: ValueError) -> Failure:
    # An unpaired surrogate cannot be written as UTF-8 JSON.
    return Failure(FailureKind.INVALID, f"a text of the request is not valid Unicode: {error}; fix the dataset's file")
