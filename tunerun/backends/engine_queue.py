"""The one queue before an engine: what waits for it, and the thread that has the engine's process do it.

Calls and prompts come before jobs, each in their order; prompts to one base model are answered together. The process
starts with the first thing to do, and again after it died.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from tunerun import errors
from tunerun.engine import messages
from tunerun.errors import AccessError, BackendError, BaseModelError, InputError
from tunerun.job import Answer, AnswerPart, BaseModelRef, Failure, FailureKind, Prompt
from tunerun.workers.base import Worker

MAX_TOGETHER = 16
"""Prompts of one batch, as many as the engine takes at once."""

_REFUSED_PAUSE_S = 1.0
"""Between two attempts to start an engine that this machine's limits keep from starting. Our choice."""

_CLOSED = Failure(FailureKind.LOST, "the runner ended while this job was under way; run the command again")

OnPart = Callable[[AnswerPart], None]


class Work(Protocol):
    """What the engine does in one turn. Its methods are called under the queue's lock, but for `command`."""

    def command(self) -> messages.Command:
        """What the engine is told.

        Raises:
            InputError: it cannot be done.
        """

    def take(self, report: messages.Report) -> bool:
        """Note a report of the engine; whether the work is done."""

    def settle(self, failure: Failure) -> None:
        """End: the engine will not do it."""

    def refuse(self, error: errors.TunerunError) -> bool:
        """End, or wait for another turn, because it cannot be begun; whether it waits."""


@dataclass(eq=False)
class Call:
    """A command whose caller waits for it."""

    asked: messages.Call
    on_part: Callable[[int, AnswerPart], None] | None = None
    answer: Future[messages.Report] = field(default_factory=Future)

    def command(self) -> messages.Command:
        """The command."""
        return self.asked

    def take(self, report: messages.Report) -> bool:
        """The caller has its answer with the last report, and parts of it before."""
        if isinstance(report, messages.Refused):
            self.answer.set_exception(raised(report))
        elif isinstance(report, messages.Answers | messages.Measured | messages.Done):
            self.answer.set_result(report)
        elif isinstance(report, messages.Piece) and self.on_part is not None:
            self.on_part(report.position, report.part)
        return self.answer.done()

    def settle(self, failure: Failure) -> None:
        """The caller has an error."""
        self.refuse(call_error(self.asked, failure))

    def refuse(self, error: errors.TunerunError) -> bool:
        """The caller has an error."""
        if not self.answer.done():
            self.answer.set_exception(error)
        return False


@dataclass(eq=False)
class Asked:
    """A prompt on its way to its answer.

    Attributes:
        check: whether its base model can still be asked; may take a while.
        is_begun: whether a part of the answer has been passed on.
        is_alone: whether it is answered without others, because an engine has died with it.
    """

    model: BaseModelRef
    prompt: Prompt
    check: Callable[[BaseModelRef], None]
    on_part: OnPart | None = None
    answer: Future[Answer] = field(default_factory=Future)
    is_begun: bool = False
    is_alone: bool = False

    @property
    def is_wanted(self) -> bool:
        """Whether its caller still waits; called when its turn has come, from when on it cannot be cancelled."""
        return not self.answer.done() and (self.answer.running() or self.answer.set_running_or_notify_cancel())

    def joins(self, first: Asked) -> bool:
        """Whether it may be answered together with a prompt before it.

        The answers of a batch are there when the longest is, so none joins that may be longer than the first.
        """
        is_apart = self.is_alone or first.is_alone or self.model != first.model
        return not is_apart and self.prompt.options.max_output_tokens <= first.prompt.options.max_output_tokens


class Batch:
    """Prompts that are answered together: what each is answered does not depend on the others."""

    def __init__(self, asked: Sequence[Asked], put_back: Callable[[Sequence[Asked]], None]) -> None:
        self.asked = asked
        self._put_back = put_back
        self.generate = messages.Generate(
            asked[0].model,
            tuple(each.prompt for each in asked),
            stream=any(each.on_part is not None for each in asked),
            id=uuid.uuid4().hex,
        )

    def command(self) -> messages.Command:
        """All prompts at once, where their base model is what it was."""
        self.asked[0].check(self.asked[0].model)
        return self.generate

    def take(self, report: messages.Report) -> bool:
        """Each caller has its answer with the last report, and parts of it before."""
        if isinstance(report, messages.Piece):
            each = self.asked[report.position]
            if each.on_part is not None:
                each.is_begun = True
                each.on_part(report.part)
        elif isinstance(report, messages.Answers):
            for each, answer in zip(self.asked, report.answers, strict=True):
                if isinstance(answer, Answer):
                    each.answer.set_result(answer)
                else:
                    each.answer.set_exception(raised(answer))
        elif isinstance(report, messages.Refused):
            self._fail(raised(report))
        return isinstance(report, messages.Answers | messages.Refused)

    def settle(self, failure: Failure) -> None:
        """Each prompt is tried alone, because one may have ended the engine; but not what is sent in part already."""
        self._fail(call_error(self.generate, failure))

    def refuse(self, error: errors.TunerunError) -> bool:
        """Every caller has an error."""
        for each in self.asked:
            if not each.answer.done():
                each.answer.set_exception(error)
        return False

    def _fail(self, error: errors.TunerunError) -> None:
        waiting = [each for each in self.asked if not each.answer.done()]
        again = [each for each in waiting if len(self.asked) > 1 and not each.is_begun]
        for each in waiting:
            if each in again:
                each.is_alone = True
            else:
                each.answer.set_exception(error)
        self._put_back(again)


class EngineQueue:
    """What waits for an engine, and its process.

    Args:
        start: starts a process, wherever it runs.
        lock: of several queues that hold the same work; None: a lock of its own.

    Attributes:
        lock: guards the queue, and what the work in it holds.
        refusal: why the process could not be started the last time; None: it could.
    """

    def __init__(self, start: Callable[[], Worker], lock: threading.Condition | None = None) -> None:
        self.lock = lock or threading.Condition()
        self.refusal: str | None = None
        self._start = start
        self._calls: deque[Call | Asked] = deque()
        self._jobs: deque[Work] = deque()
        self._current: Work | None = None
        self._stops: set[str] = set()  # what of the current work has to end
        self._engine: Worker | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def process_id(self) -> int | None:
        """The operating system's number of the process; None: it was not started, or has died."""
        engine = self._engine
        return engine.process_id if engine is not None else None

    @property
    def is_open(self) -> bool:
        """Whether work is taken."""
        return not self._is_closed

    @property
    def calls_waiting(self) -> int:
        """How many calls and prompts wait for what is before them."""
        return len(self._calls)

    def is_doing(self, work: Work) -> bool:
        """Whether a piece of work is under way."""
        return self._current is work

    @property
    def load(self) -> int:
        """How much is waiting or under way."""
        return len(self._calls) + len(self._jobs) + (self._current is not None)

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

    def add_job(self, job: Work) -> None:
        """Have a job done, after those before it."""
        with self.lock:
            self.check_open()
            self._jobs.append(job)
            self._wake()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="tunerun-local", daemon=True)
            self._thread.start()
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
            if answer.cancel():
                self._calls = deque(
                    each for each in self._calls if not (isinstance(each, Asked) and each.answer is answer)
                )
            elif isinstance(self._current, Batch) and not answer.done():
                for position, each in enumerate(self._current.asked):
                    if each.answer is answer:
                        self.stop(self._current.generate.answer_id(position))

    def withdraw(self, error: Exception) -> None:
        """Refuse every prompt that waits."""
        with self.lock:
            for each in [each for each in self._calls if isinstance(each, Asked)]:
                self._calls.remove(each)
                if each.is_wanted:
                    each.answer.set_exception(error)

    def drop_job(self, job: Work) -> bool:
        """Take back a job that waits; whether it did."""
        with self.lock:
            if job not in self._jobs:
                return False
            self._jobs.remove(job)
            return True

    def stop(self, identifier: str) -> None:
        """End something of the current work: a job before its next step, an answer at its next token."""
        with self.lock:
            self._stops.add(identifier)
            if self._engine is not None:
                self._engine.send(messages.Cancel(identifier))

    # The thread

    def _serve(self) -> None:
        try:
            while (work := self._next()) is not None:
                while not self._follow(work):
                    pass  # the engine died before it took the work: another one does
                with self.lock:
                    self._current = None
                    self._stops.clear()
        finally:  # whatever ended this thread, no caller waits in vain
            with self.lock:
                self._is_closed = True
                self._settle_all()

    def _next(self) -> Work | None:
        """Wait for the next piece of work; None: the queue was closed."""
        while True:
            with self.lock:
                self.lock.wait_for(lambda: self._is_closed or self._calls or self._jobs)
                if self._is_closed:
                    return None
                first = self._calls.popleft() if self._calls else self._jobs.popleft()
                work = self._together(first) if isinstance(first, Asked) else first
                if work is not None:
                    self._current = work
                    return work

    def _together(self, first: Asked) -> Work | None:
        """A prompt and those that may join it, without those whose clients have gone; None: there is none."""
        joining = [each for each in self._calls if isinstance(each, Asked) and each.joins(first)][: MAX_TOGETHER - 1]
        for each in joining:
            self._calls.remove(each)
        wanted = [each for each in (first, *joining) if each.is_wanted]
        return Batch(wanted, self._put_back) if wanted else None

    def _put_back(self, asked: Sequence[Asked]) -> None:
        self._calls.extendleft(reversed(asked))

    def _follow(self, work: Work) -> bool:
        """Send one piece of work and listen until it is done or the engine is dead.

        Returns:
            Whether the work is settled; not so if an engine that had worked before died without taking it.
        """
        try:
            engine = self._send(work)
        except OSError as error:
            self._wait_for_room(work, error)
            return True
        except ValueError as error:
            with self.lock:
                work.settle(_not_sent(error))
            return True
        except InputError as error:
            with self.lock:
                work.refuse(error)
            return True
        if engine is None:
            return True
        was_idle, is_taken = engine.has_reported, False
        while (report := engine.receive()) is not None:
            is_taken = True
            with self.lock:
                if work.take(report):
                    return True
        failure = engine.death()
        with self.lock:
            self._engine = None
            if was_idle and not is_taken and not self._is_closed:
                return False
            work.settle(_CLOSED if self._is_closed else failure)
            return True

    def _wait_for_room(self, work: Work, error: OSError) -> None:
        """Keep a job for which no process could be started: this machine's limits are not the job's fault."""
        reason = (
            f"the engine's process cannot start: {error.strerror}; raise this machine's limits (ulimit -n for open "
            "files, -u for processes) or free its memory, then run the same command again"
        )
        with self.lock:
            if work.refuse(AccessError(reason)):
                self.refusal = reason
                self._jobs.appendleft(work)
                self.lock.wait(_REFUSED_PAUSE_S)

    def _send(self, work: Work) -> Worker | None:
        """Send work to the engine, started if need be; None: the queue was closed meanwhile."""
        command = work.command()
        with self.lock:
            if self._is_closed:
                work.settle(_CLOSED)
                return None
            if self._engine is None:
                self._engine = self._start()
                self.refusal = None
            engine, stops = self._engine, [*self._stops]
        engine.send(command)
        for identifier in stops:
            engine.send(messages.Cancel(identifier))
        return engine

    def _settle_all(self) -> None:
        """End everything that is not, as the engine will end nothing any more."""
        if self._current is not None:
            self._current.settle(_CLOSED)
        for each in [*self._calls, *self._jobs]:
            if not isinstance(each, Asked):
                each.settle(_CLOSED)
            elif each.is_wanted:
                each.answer.set_exception(BackendError(_CLOSED.message))
        self._calls.clear()
        self._jobs.clear()

    def close(self) -> None:
        """End the process in the middle of whatever it does, and everything that waits."""
        with self.lock:
            self._is_closed = True
            engine, thread = self._engine, self._thread
            self.lock.notify_all()
        if engine is not None:
            engine.end()
        if thread is not None:
            thread.join()
        if engine is not None:
            engine.death()


def call_error(command: messages.Call, failure: Failure) -> errors.TunerunError:
    """Return what a caller is told whose engine died; a base model that fits no memory is the user's to change."""
    if isinstance(command, messages.Prepare) and failure.kind is FailureKind.OUT_OF_MEMORY:
        return BaseModelError(
            f"the base model {command.model.name!r} does not fit this machine's memory: the engine's process was "
            "killed while it converted the weights to float32 (4 bytes a parameter); free memory, or choose a "
            "smaller base model"
        )
    return BackendError(failure.message)


def raised(report: messages.Refused) -> errors.TunerunError:
    """Return the error that the engine's process raised, as the same class here."""
    kind = getattr(errors, report.error or "", None)
    if isinstance(kind, type) and issubclass(kind, InputError):
        return kind(report.problems)
    return BackendError("; ".join(report.problems) + (f"\n{report.traceback}" if report.traceback else ""))


def _not_sent(error: ValueError) -> Failure:
    # Half a character (a lone surrogate) cannot be written as JSON.
    return Failure(FailureKind.INVALID, f"a text of the request is not valid Unicode: {error}; fix the dataset's file")
