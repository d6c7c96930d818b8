"""Distributes the work of a backend over several engines, each with its own queue.

A job goes to the engine that already has jobs of the same training run, otherwise to the least loaded one. A call goes
to the least loaded engine; on a tie, to one that last had the call's base model loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from tunerun.backends.local.engine_calls import QueuedPrompt
from tunerun.backends.local.engine_queue import EngineQueue
from tunerun.backends.local.engine_session import Job
from tunerun.engine import messages
from tunerun.generation import Answer, AnswerPart
from tunerun.job import BaseModelRef, Failure, FailureKind, in_common
from tunerun.workers.base import DeadWorker, Worker

_NO_ROOM = Failure(FailureKind.LOST, "no machine has room for another worker since one was lost")


class EnginePool:
    """Several engine queues with the interface of one.

    Args:
        open_worker: starts the engine with a number, from 0; called with its first work, and again after it died.
        train: see `EngineQueue`.
        count: the most engines.
        room: returns how many of them can run at once; decreases when a cluster loses a node.

    Attributes:
        lock: guards all queues and the state of the work in them.
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
        """PID of the first engine's process on this machine; None: it is not running."""
        return next((each.process_id for each in self._queues if each.process_id is not None), None)

    @property
    def is_open(self) -> bool:
        """Whether the pool accepts work."""
        return all(each.is_open for each in self._queues)

    @property
    def calls_waiting(self) -> int:
        """Number of queued calls and prompts."""
        return sum(each.calls_waiting for each in self._queues)

    @property
    def refusal(self) -> str | None:
        """Why the last attempt to start an engine failed; None: all engines start."""
        return next((each.refusal for each in self._queues if each.refusal is not None), None)

    def call(self, command: messages.Call, on_part: Callable[[int, AnswerPart], None] | None = None) -> messages.Report:
        """Execute a command, and block until its report; also starts the jobs that were added."""
        self.begin()
        return self._least(command.model).call(command, on_part)

    def ask(self, prompts: Sequence[QueuedPrompt]) -> None:
        """Queue prompts to one base model; also starts the jobs that were added."""
        self.begin()
        self._least(prompts[0].model).ask(prompts)

    def adopt(self, worker: Worker, jobs: Sequence[Job]) -> bool:
        """Take over a running engine with its jobs; False: the pool already has its most engines."""
        with self.lock:
            for number, queue in enumerate(self._queues):
                if queue.adopt(worker, jobs):
                    self._workers[number] = worker
                    return True
            return False

    def add_job(self, job: Job) -> None:
        """Append a job to a queue; it can start once `begin` is called."""
        with self.lock:
            self._of_run(job).add_job(job)

    def begin(self) -> None:
        """Allow the jobs that were added to start."""
        for each in self._queues:
            each.begin()

    def _of_run(self, job: Job) -> EngineQueue:
        # Jobs of one training run share its steps only at the same engine.
        shared = in_common(job.request)
        same = (each for each in self._queues if any(in_common(one.request) == shared for one in each.jobs))
        return next(same, None) or self._least(job.request.model)

    def _open(self, number: int) -> Worker:
        """Start an engine; fail if the running ones leave no room for it, so that they get its work."""
        # A cluster that lost a node may not have room for all engines again. Waiting there for a place would hold up
        # work that the running engines can do.
        others = sum(self._runs(other) for other in self._workers if other != number)
        if others and self._room() <= others:
            return DeadWorker(_NO_ROOM)
        self._workers[number] = self._open_worker(number)
        return self._workers[number]

    def _runs(self, number: int) -> bool:
        worker = self._workers.get(number)
        return worker is not None and not worker.has_ended

    def _least(self, model: BaseModelRef) -> EngineQueue:
        """Return the least loaded queue; on a tie, one that had the base model loaded last.

        Raises:
            InputError, AccessError: no engine can run; raised by `room`.
        """
        room = self._room()
        with self.lock:
            # Running engines come first: where there is room for fewer than all, the others could not be started.
            numbers = sorted(range(len(self._queues)), key=lambda number: not self._runs(number))
            usable = [self._queues[number] for number in numbers[:room]]
            chosen = min(usable, key=lambda each: (each.load, self._models.get(each) != model))
            self._models[chosen] = model
            return chosen

    def check_open(self) -> None:
        """Check that the pool accepts work.

        Raises:
            BackendError: it was closed.
        """
        for each in self._queues:
            each.check_open()

    def cancel_answer(self, answer: Future[Answer]) -> None:
        """Cancel a prompt: a queued one is dropped, a running one ends at the next token."""
        for each in self._queues:
            each.cancel_answer(answer)

    def refuse_prompts(self, error: Exception) -> None:
        """Fail every queued prompt with an error."""
        for each in self._queues:
            each.refuse_prompts(error)

    def cancel(self, job: Job, *, pauses: bool = False) -> None:
        """Stop a job: immediately if it is queued, otherwise before its next step; see `EngineQueue.cancel`."""
        for each in self._queues:
            if each.cancel(job, pauses=pauses):
                return

    def close(self) -> None:
        """Kill the engines without waiting for their work, and end everything that is queued."""
        for each in self._queues:
            each.close()
