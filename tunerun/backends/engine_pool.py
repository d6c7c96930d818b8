"""Several engines, each with its queue: what a backend has to do is shared among them.

A job goes to the engine that has jobs of the same training run, else to the one with the least to do; so does a call,
but of equal ones to one that had its base model last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from tunerun.backends.engine_calls import Asked
from tunerun.backends.engine_queue import EngineQueue
from tunerun.backends.engine_session import Job
from tunerun.engine import messages
from tunerun.job import Answer, AnswerPart, BaseModelRef, Failure, FailureKind, in_common
from tunerun.workers.base import DeadWorker, Worker

_NO_ROOM = Failure(FailureKind.LOST, "no machine has room for another worker since one was lost")


class EnginePool:
    """Engine queues that act as one.

    Args:
        open_worker: starts the engine of a number, from 0; called when it first has something to do, and after it died.
        train: see `EngineQueue`.
        count: how many engines there are at most.
        room: says how many of them can run at once; less than before where a cluster has lost a node.

    Attributes:
        lock: guards the queues, and what the work in them holds.
    """

    def __init__(
        self,
        open_worker: Callable[[int], Worker],
        train: Callable[[Sequence[Job], int | None], messages.Train],
        count: int,
        room: Callable[[], int],
    ) -> None:
        self.lock = threading.Condition()
        self._open_worker = open_worker
        self._room = room
        self._workers: dict[int, Worker] = {}
        self._queues = [EngineQueue(partial(self._open, number), train, self.lock) for number in range(count)]
        self._models: dict[EngineQueue, BaseModelRef] = {}

    @property
    def process_id(self) -> int | None:
        """The operating system's number of the first engine's process; None: none was started here, or it has died."""
        return next((each.process_id for each in self._queues if each.process_id is not None), None)

    @property
    def is_open(self) -> bool:
        """Whether work is taken."""
        return all(each.is_open for each in self._queues)

    @property
    def calls_waiting(self) -> int:
        """How many calls and prompts wait for what is before them."""
        return sum(each.calls_waiting for each in self._queues)

    @property
    def load(self) -> int:
        """How much is waiting or under way."""
        return sum(each.load for each in self._queues)

    @property
    def refusal(self) -> str | None:
        """Why an engine could not be started the last time; None: all could."""
        return next((each.refusal for each in self._queues if each.refusal is not None), None)

    def call(self, command: messages.Call, on_part: Callable[[int, AnswerPart], None] | None = None) -> messages.Report:
        """Have a command followed, and wait for its report; what was added begins as well."""
        self.begin()
        return self._least(command.model).call(command, on_part)

    def ask(self, asked: Sequence[Asked]) -> None:
        """Have prompts to one base model answered; what was added begins as well."""
        self.begin()
        self._least(asked[0].model).ask(asked)

    def adopt(self, worker: Worker, jobs: Sequence[Job]) -> bool:
        """Continue with an engine that trains jobs already; False: there are as many engines as there may be."""
        with self.lock:
            for number, queue in enumerate(self._queues):
                if queue.adopt(worker, jobs):
                    self._workers[number] = worker
                    return True
            return False

    def add_job(self, job: Job) -> None:
        """Have a job trained, after those before it; it begins after `begin`."""
        with self.lock:
            self._of_run(job).add_job(job)

    def begin(self) -> None:
        """Have the jobs trained that were added."""
        for each in self._queues:
            each.begin()

    def _of_run(self, job: Job) -> EngineQueue:
        shared = in_common(job.request)
        same = (each for each in self._queues if any(in_common(one.request) == shared for one in each.jobs))
        return next(same, None) or self._least(job.request.model)

    def _open(self, number: int) -> Worker:
        """Start an engine, unless the others that run leave it no room: then what waits for it is for them."""
        others = sum(self._runs(other) for other in self._workers if other != number)
        if others and self._room() <= others:
            return DeadWorker(_NO_ROOM)
        self._workers[number] = self._open_worker(number)
        return self._workers[number]

    def _runs(self, number: int) -> bool:
        worker = self._workers.get(number)
        return worker is not None and not worker.has_ended

    def _least(self, model: BaseModelRef) -> EngineQueue:
        """The queue with the least to do, of equal ones one that had the base model last.

        Raises:
            InputError, AccessError: no engine can run; see `room`.
        """
        room = self._room()
        with self.lock:
            numbers = sorted(range(len(self._queues)), key=lambda number: not self._runs(number))
            usable = [self._queues[number] for number in numbers[:room]]
            chosen = min(usable, key=lambda each: (each.load, self._models.get(each) != model))
            self._models[chosen] = model
            return chosen

    def check_open(self) -> None:
        """Refuse further work of a pool that was closed.

        Raises:
            BackendError: it was.
        """
        for each in self._queues:
            each.check_open()

    def leave(self, answer: Future[Answer]) -> None:
        """Take a prompt back: one that waits is not answered, one that is being answered ends at the next token."""
        for each in self._queues:
            each.leave(answer)

    def withdraw(self, error: Exception) -> None:
        """Refuse every prompt that waits."""
        for each in self._queues:
            each.withdraw(error)

    def cancel(self, job: Job, *, pauses: bool = False) -> None:
        """End a job, at once if it waits, else before its next step; see `EngineQueue.cancel`."""
        for each in self._queues:
            if each.cancel(job, pauses=pauses):
                return

    def close(self) -> None:
        """End the engines in the middle of whatever they do, and everything that waits."""
        for each in self._queues:
            each.close()
