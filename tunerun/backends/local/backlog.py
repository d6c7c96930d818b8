"""The work that waits for an engine, and the rules by which it is started.

- Jobs that were added before `begin` start together, in order; those of one base model form a pack. A later job joins
  the pack of its base model between two steps, unless a job of another base model is queued: then the pack trains to
  its end, and the base model of the longest-waiting job is next. So no job starves, and without late jobs the packs do
  not depend on timing.
- Calls have priority over jobs and run one at a time, in order; prompts to one base model are answered together. While
  a pack trains, a call to its base model runs between two steps. A call to another base model waits for the pack to
  end; meanwhile no job joins that pack, so that it does end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from tunerun.backends.local.engine_calls import BlockingCall, EngineWork, PromptBatch, QueuedPrompt
from tunerun.backends.local.engine_session import Aftermath, EngineSession, Job
from tunerun.errors import BackendError
from tunerun.generation import Answer
from tunerun.job import Failure

MAX_TOGETHER = 64
"""The most prompts of one batch, so that no other call waits for long. Our choice."""


class Backlog:
    """Jobs, calls and prompts that no engine has. Used only while holding the queue's lock.

    Attributes:
        calls: calls and prompts, in the order in which they are started.
        jobs: jobs that may start, in order.
        added: jobs that may start once `begin` is called.
    """

    def __init__(self) -> None:
        self.calls: deque[BlockingCall | QueuedPrompt] = deque()
        self.jobs: deque[Job] = deque()
        self.added: list[Job] = []

    def begin(self) -> bool:
        """Allow the added jobs to start; return whether there are any."""
        has_new = bool(self.added)
        self.jobs.extend(self.added)
        self.added.clear()
        return has_new

    def next_call(self, session: EngineSession | None) -> BlockingCall | QueuedPrompt | None:
        """Return the call or prompt that an engine can execute now; None: there is none.

        Args:
            session: the engine; None: it has not started.
        """
        if session is not None and session.call is not None:
            return None  # an engine executes one call at a time
        model = None if session is None else session.model
        return next((each for each in self.calls if model in (None, each.model)), None)

    def next_jobs(self, session: EngineSession | None) -> list[Job]:
        """Return the jobs that can start at an engine, or join its pack, now; `session` as for `next_call`."""
        model = None if session is None else session.model
        if model is None:
            return [job for job in self.jobs if job.request.model == self.jobs[0].request.model]
        # Both end the pack's growth: a call or a job of another base model waits for the pack to end.
        is_apart = any(each.model != model for each in self.calls)
        return [] if is_apart or any(job.request.model != model for job in self.jobs) else [*self.jobs]

    def take_call(self, first: BlockingCall | QueuedPrompt) -> EngineWork | None:
        """Remove a call; for a prompt, batch it with those that may join it.

        Returns:
            The work to send; None: nothing waits for its outcome any more.
        """
        self.calls.remove(first)
        if isinstance(first, BlockingCall):
            return None if first.answer.done() else first
        joining = [each for each in self.calls if isinstance(each, QueuedPrompt) and each.joins(first)]
        batch = [first, *joining[: MAX_TOGETHER - 1]]
        for each in batch[1:]:
            self.calls.remove(each)
        # A caller may have cancelled it since it was queued; from here on it is running and cannot be cancelled.
        wanted = [each for each in batch if each.is_wanted]
        return PromptBatch(wanted, self.put_back) if wanted else None

    def take_jobs(self, jobs: Sequence[Job]) -> None:
        """Remove jobs."""
        self.jobs = deque(job for job in self.jobs if job not in jobs)

    def put_back(self, prompts: Sequence[QueuedPrompt]) -> None:
        """Queue prompts before all others."""
        self.calls.extendleft(reversed(prompts))

    def take_back(self, left: Aftermath) -> None:
        """Queue the work that an engine left when it died, before all other work."""
        if isinstance(left.call, PromptBatch):
            self.put_back(left.call.prompts)
        elif isinstance(left.call, BlockingCall):
            self.calls.appendleft(left.call)
        for job in left.jobs:
            job.waits()
        self.jobs.extendleft(reversed(left.jobs))

    def drop_prompt(self, answer: Future[Answer]) -> None:
        """Remove a prompt whose caller has cancelled it."""
        self.calls = deque(
            each for each in self.calls if not (isinstance(each, QueuedPrompt) and each.answer is answer)
        )

    def refuse_prompts(self, error: Exception) -> None:
        """Fail every prompt, and remove it."""
        for each in [each for each in self.calls if isinstance(each, QueuedPrompt)]:
            self.calls.remove(each)
            if each.is_wanted:
                each.answer.set_exception(error)

    def cancel(self, job: Job) -> bool:
        """End a job as cancelled, and remove it; return whether it was here."""
        for waiting in (self.added, self.jobs):
            if job in waiting:
                waiting.remove(job)
                job.cancelled()
                return True
        return False

    def settle(self, failure: Failure) -> None:
        """Fail everything, and remove it."""
        self.refuse_prompts(BackendError(failure.message))
        for call in self.calls:
            if isinstance(call, BlockingCall):
                call.settle(failure)
        for job in [*self.jobs, *self.added]:
            job.settle(failure)
        for waiting in (self.calls, self.jobs, self.added):
            waiting.clear()
