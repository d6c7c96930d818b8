"""Several engines, each with its queue: what a backend has to do is shared among them.

A job goes to the engine with the least to do; so does a call, but of equal ones to one that had its base model last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from tunerun.backends.engine_queue import Asked, EngineQueue, Work
from tunerun.engine import messages
from tunerun.job import Answer, AnswerPart, BaseModelRef, Failure, FailureKind
from tunerun.workers.base import DeadWorker, Worker

_NO_ROOM = Failure(FailureKind.LOST, "no machine has room for another worker since one was lost")


class EnginePool:
    """Engine queues that act as one.

    Args:
        open_worker: starts the engine of a number, from 0; called when it first has something to do, and after it died.
        count: how many engines there are at most.
        room: says how many of them can run at once; less than before where a cluster has lost a node.

    Attributes:
        lock: guards the queues, and what the work in them holds.
    """

    def __init__(self, open_worker: Callable[[int], Worker], count: int, room: Callable[[], int]) -> None:
        self.lock = threading.Condition()
        self._open_worker = open_worker
        self._room = room
        self._workers: dict[int, Worker] = {}
        self._queues = [EngineQueue(partial(self._open, number), self.lock) for number in range(count)]
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
        """Have a command followed, and wait for its report."""
        return self._least(command.model).call(command, on_part)

    def ask(self, asked: Sequence[Asked]) -> None:
        """Have prompts to one base model answered."""
        self._least(asked[0].model).ask(asked)

    def add_job(self, job: Work, model: BaseModelRef) -> None:
        """Have a job done on a base model, after those before it."""
        self._least(model).add_job(job)

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

    def drop_job(self, job: Work) -> bool:
        """Take back a job that waits; whether it did."""
        return any(each.drop_job(job) for each in self._queues)

    def stop(self, job: Work, identifier: str) -> None:
        """End a job that is under way before its next step."""
        for each in self._queues:
            if each.is_doing(job):
                each.stop(identifier)

    def close(self) -> None:
        """End the engines in the middle of whatever they do, and everything that waits."""
        for each in self._queues:
            each.close()
