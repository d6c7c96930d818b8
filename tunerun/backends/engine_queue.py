"""The one queue before an engine: what waits for it, and the threads that have the engine's process do it.

The rules:

- Jobs that were added before `begin` begin together, in order; those of one base model are one pack. What is added
  later joins the pack of its base model between two steps, unless a job of another base model waits: then the pack is
  trained to its end, and the pack of the job that has waited longest is next. So no job waits for ever, and what trains
  together does not depend on time where nothing is added late.
- Calls come before jobs, each in their order, one at a time; prompts to one base model are answered together. While a
  pack is trained, a call to its base model is followed between two steps; one to another base model waits for its end,
  and so that it does end, nothing joins it while such a call waits.

The process starts with the first thing to do, and again after it died. One that does not react when a job has to end is
ended, wherever it runs, and its other jobs are trained by the next one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from tunerun.backends.engine_calls import Asked, Batch, Call, Work
from tunerun.backends.engine_session import EngineSession, Job
from tunerun.engine import messages
from tunerun.errors import AccessError, BackendError, InputError
from tunerun.job import Answer, AnswerPart, BaseModelRef, Failure, FailureKind
from tunerun.workers.base import Worker

MAX_TOGETHER = 64
"""Prompts of one batch: as many as the engine may answer at once, so that no other call waits for long. Our choice."""

_REFUSED_PAUSE_S = 1.0
"""Between two attempts to start an engine that this machine's limits keep from starting. Our choice."""

SILENCE_S = 300.0
"""How long an engine may report nothing while a job of it has to end. It reports every step, and the longest step that
was measured took 57 s (`engine.process.ENVIRONMENT`); before the first step it loads a base model, which takes minutes
from a slow disk. While it follows a call, which reports nothing until it is done, the time does not count. Our
choice."""

_MAX_LOST = 3
"""How many engines of a queue may be lost one after the other, no job having ended, before their jobs fail as lost: a
time limit that is shorter than an epoch would otherwise be tried forever. Our choice."""

_CLOSED = Failure(FailureKind.LOST, "the runner ended while this job was under way; run the command again")


class EngineQueue:
    """What waits for an engine, and its process.

    Args:
        start: starts a process, wherever it runs.
        train: makes the command to train jobs, with how many training runs may share a pass if that is less than the
            engine's settings allow.
        lock: of several queues that hold the same work; None: a lock of its own.
        silence_s: see `SILENCE_S`.

    Attributes:
        lock: guards the queue, and what the work in it holds.
        refusal: why the process could not be started the last time; None: it could.
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
        self._calls: deque[Call | Asked] = deque()
        self._added: list[Job] = []
        self._jobs: deque[Job] = deque()
        self._stops: dict[str, messages.Cancel] = {}  # what of the session has to end
        self._most: dict[BaseModelRef, int] = {}  # training runs that share a pass, where engines have died with more
        self._is_memory_short: set[BaseModelRef] = set()
        self._lost = 0  # engines, since a job ended the last time
        self._session: EngineSession | None = None
        self._watch: threading.Timer | None = None  # runs while a job has to end
        self._sender: threading.Thread | None = None
        self._listener: threading.Thread | None = None
        self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """The operating system's number of the process; None: it was not started, or has died."""
        session = self._session
        return session.worker.process_id if session is not None else None

    @property
    def is_open(self) -> bool:
        """Whether work is taken."""
        return not self._is_closed

    @property
    def calls_waiting(self) -> int:
        """How many calls and prompts wait for what is before them."""
        return len(self._calls)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that wait or are under way."""
        under_way = [] if self._session is None else [*self._session.jobs.values()]
        return [*under_way, *self._jobs, *self._added]

    @property
    def load(self) -> int:
        """How much is waiting or under way."""
        is_calling = self._session is not None and self._session.call is not None
        return len(self._calls) + is_calling + len(self.jobs)

    # What is to be done

    def call(self, command: messages.Call, on_part: Callable[[int, AnswerPart], None] | None = None) -> messages.Report:
        """Have a command followed, and wait for its report."""
        call = Call(command, on_part)
        with self.lock:
            self.check_open()
            self._calls.append(call)
            self._wake()
        return call.answer.result()

    def ask(self, asked: Sequence[Asked]) -> None:
        """Have prompts answered."""
        with self.lock:
            self.check_open()
            self._calls.extend(asked)
            self._wake()

    def adopt(self, worker: Worker, jobs: Sequence[Job]) -> bool:
        """Continue with an engine that trains jobs already; False: this queue has one, or work for one."""
        with self.lock:
            self.check_open()
            if self._session is not None or self.load:
                return False
            self._begin_session(worker).give_jobs(jobs)
            self._wake()
            return True

    def add_job(self, job: Job) -> None:
        """Have a job trained, after those before it; it begins after `begin`."""
        with self.lock:
            self.check_open()
            self._added.append(job)

    def begin(self) -> None:
        """Have the jobs trained that were added."""
        with self.lock:
            if self._added and self.is_open:
                self._jobs.extend(self._added)
                self._added.clear()
                self._wake()

    def _wake(self) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._serve, name="tunerun-local", daemon=True)
            self._sender.start()
        self.lock.notify_all()

    def check_open(self) -> None:
        """Refuse further work of a queue that was closed.

        Raises:
            BackendError: it was.
        """
        if self._is_closed:
            raise BackendError("the backend `local` was closed; open another one")

    def leave(self, answer: Future[Answer]) -> None:
        """Take a prompt back: one that waits is not answered, one that is being answered ends at the next token."""
        with self.lock:
            current = None if self._session is None else self._session.call
            if answer.cancel():
                self._calls = deque(
                    each for each in self._calls if not (isinstance(each, Asked) and each.answer is answer)
                )
            elif isinstance(current, Batch) and not answer.done():
                for position, each in enumerate(current.asked):
                    if each.answer is answer:
                        self._stop(messages.Cancel(current.generate.answer_id(position)))

    def withdraw(self, error: Exception) -> None:
        """Refuse every prompt that waits."""
        with self.lock:
            for each in [each for each in self._calls if isinstance(each, Asked)]:
                self._calls.remove(each)
                if each.is_wanted:
                    each.answer.set_exception(error)

    def cancel(self, job: Job, *, pauses: bool = False) -> bool:
        """End a job, at once if it waits here, else before its next step; whether it was here.

        Args:
            pauses: whether it keeps what it needs to continue.
        """
        with self.lock:
            for waiting in (self._added, self._jobs):
                if job in waiting:
                    waiting.remove(job)
                    job.cancelled()
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
        """End an engine that has reported nothing since a job of it was to end; look again later if it has."""
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
        finally:  # whatever ended this thread, no caller waits in vain
            self._settle_all()

    def _send_next(self) -> bool:
        """Wait for something that can be sent, and send it; False: the queue was closed."""
        with self.lock:
            self.lock.wait_for(lambda: self._is_closed or self._next_call() is not None or self._joining())
            if self._is_closed:
                return False
            if self._session is None and not self._open_session():
                return True
            session = self._session
            first = self._next_call()
            work = self._taken(first) if first is not None else self._joining()
            if session is None or not work:
                return True
            if isinstance(work, list):
                self._jobs = deque(job for job in self._jobs if job not in work)
                session.give_jobs(work)
            else:
                session.give_call(work)
        self._send(work)
        return True

    def _next_call(self) -> Call | Asked | None:
        """The call that can be followed now."""
        if self._session is not None and self._session.call is not None:
            return None
        model = None if self._session is None else self._session.model
        return next((each for each in self._calls if model in (None, each.model)), None)

    def _joining(self) -> list[Job]:
        """The jobs that can be trained now."""
        model = None if self._session is None else self._session.model
        if model is None:
            return [job for job in self._jobs if job.request.model == self._jobs[0].request.model]
        is_apart = any(each.model != model for each in self._calls)
        return [] if is_apart or any(job.request.model != model for job in self._jobs) else [*self._jobs]

    def _taken(self, first: Call | Asked) -> Work | None:
        """Take a call out of the queue; of a prompt with those that may join it and whose clients have not gone."""
        self._calls.remove(first)
        if isinstance(first, Call):
            return None if first.answer.done() else first
        joining = [each for each in self._calls if isinstance(each, Asked) and each.joins(first)][: MAX_TOGETHER - 1]
        for each in joining:
            self._calls.remove(each)
        wanted = [each for each in (first, *joining) if each.is_wanted]
        return Batch(wanted, self._put_back) if wanted else None

    def _put_back(self, asked: Sequence[Asked]) -> None:
        self._calls.extendleft(reversed(asked))

    def _open_session(self) -> bool:
        """Start the engine; a job waits if that fails: this machine's limits are not its fault."""
        try:
            self._begin_session(self._start())
        except OSError as error:
            self.refusal = (
                f"the engine's process cannot start: {error.strerror}; raise this machine's limits (ulimit -n for open "
                "files, -u for processes) or free its memory, then run the same command again"
            )
            while self._calls:
                call = self._taken(self._calls[0])
                if call is not None:
                    call.refuse(AccessError(self.refusal))
            self.lock.wait(_REFUSED_PAUSE_S)
            return False
        return True

    def _begin_session(self, worker: Worker) -> EngineSession:
        self.refusal = None
        self._session = session = EngineSession(worker)
        self._listener = threading.Thread(target=self._listen, args=(session,), name="tunerun-engine", daemon=True)
        self._listener.start()
        return session

    def _send(self, work: Work | list[Job]) -> None:
        """Send the engine what it was given."""
        try:
            if isinstance(work, list):
                self._send_jobs(work)
            else:
                self._send_command(work.command())
        except (InputError, ValueError) as error:
            assert not isinstance(work, list)  # noqa: S101 - of jobs each is looked at
            with self.lock:
                if self._session is not None and self._session.call is work:
                    self._session.call = None
                if isinstance(error, InputError):
                    work.refuse(error)
                else:
                    work.settle(_not_sent(error))

    def _send_jobs(self, jobs: Sequence[Job]) -> None:
        model = jobs[0].request.model
        try:
            self._send_command(self._train(jobs, self._most.get(model)))
        except ValueError as error:
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
        if session is not None:  # else it has died, and what it was given is looked after
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
                    self._forget(session)
                    self.lock.notify_all()
        except BaseException:  # raised again: an engine without a listener would block its callers forever
            session.worker.end()
            raise
        finally:
            self._bury(session)

    def _forget(self, session: EngineSession) -> None:
        """Forget what is over: requests to end, and what was tried to find a job that is to blame."""
        call = session.call
        answers = call.generate.id if isinstance(call, Batch) else None
        self._stops = {
            one: stop for one, stop in self._stops.items() if one in session.jobs or one.partition(".")[0] == answers
        }
        if session.model is None and not self._jobs:
            self._most = {model: most for model, most in self._most.items() if model in self._is_memory_short}

    def _bury(self, session: EngineSession) -> None:
        """Settle or put back what an engine that died had not done."""
        failure = session.worker.death()
        with self.lock:
            self._session = None
            if self._is_closed:
                session.close(_CLOSED)
            else:
                model = session.model
                is_lost = failure.kind is FailureKind.LOST and not session.is_given_up
                self._lost += is_lost and model is not None  # an idle one, such as a Slurm job, is missed by no job
                found = session.died(failure, stopped=self._stops, is_last_try=self._lost >= _MAX_LOST)
                if model is not None and not is_lost and not session.is_given_up:
                    self._learn(model, found.most, failure)
                if isinstance(found.call, Batch):
                    self._put_back(found.call.asked)
                elif isinstance(found.call, Call):
                    self._calls.appendleft(found.call)
                for job in found.jobs:
                    job.waits()
                self._jobs.extendleft(reversed(found.jobs))
            self._stops.clear()
            self.lock.notify_all()

    def _learn(self, model: BaseModelRef, most: int | None, failure: Failure) -> None:
        """Note how many training runs may share a pass; as many as before where the one to blame was found.

        Not called for an engine that was lost: a node that vanished says nothing of memory. A local process that ended
        by SIGKILL is OUT_OF_MEMORY, unless the kernel's own count says that it was not the one that killed it
        (`engine.process.failure_of_exit`), so the kernel's memory killer still halves the pack.
        """
        if most is None:
            self._most.pop(model, None)
            self._is_memory_short.discard(model)
        else:
            self._most[model] = most
            if failure.kind is FailureKind.OUT_OF_MEMORY:
                self._is_memory_short.add(model)

    def _settle_all(self) -> None:
        """End everything that is not, as the engine will end nothing any more."""
        with self.lock:
            self._is_closed = True
            if self._session is not None:
                self._session.close(_CLOSED)
            for call in self._calls:
                if not isinstance(call, Asked):
                    call.settle(_CLOSED)
                elif call.is_wanted:
                    call.answer.set_exception(BackendError(_CLOSED.message))
            for job in [*self._jobs, *self._added]:
                job.settle(_CLOSED)
            self._calls.clear()
            self._jobs.clear()
            self._added.clear()

    def close(self) -> None:
        """End the process in the middle of whatever it does, and everything that waits."""
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
    # Half a character (a lone surrogate) cannot be written as JSON.
    return Failure(FailureKind.INVALID, f"a text of the request is not valid Unicode: {error}; fix the dataset's file")
