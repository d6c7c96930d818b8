"""Answers to prompts, by engines of their own, so that no prompt waits for a training job.

Each base model has one engine, which keeps it in memory. Prompts to a base model and to all its tuned models are
answered together: what each is answered does not depend on the others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from tunerun.backends.local import LocalBackend
from tunerun.errors import TunerunError
from tunerun.job import Answer, AnswerPart, BaseModelRef, GenerateOptions, Prompt
from tunerun.service.core.problems import Code, ServiceError

MAX_WAITING = 1000
"""Prompts to one base model that may wait; one more is refused. At a second each the last waits for 16 minutes."""

MAX_TOGETHER = 16
"""Prompts of one batch, as many as the engine takes at once."""

RETRY_AFTER_S = 10

OnPart = Callable[[AnswerPart], None]


class Answerer:
    """Answers prompts to base models and their tuned models.

    Args:
        models: the base models.
        open_engine: makes a backend whose engine is its own.
    """

    def __init__(self, models: Sequence[BaseModelRef], open_engine: Callable[[], LocalBackend]) -> None:
        self._queues = {model: _Queue(model, open_engine()) for model in models}

    def prepare(self) -> None:
        """Find every base model, and convert or fetch those that are not ready.

        Raises:
            InputError: some cannot be found, or a package is missing.
        """
        for queue in [*self._queues.values()][:1]:
            queue.engine.prepare([*self._queues])

    def load(self, on_loading: Callable[[BaseModelRef], None]) -> None:
        """Have every base model in memory, so that no prompt waits for that.

        Args:
            on_loading: given each base model before it is loaded.

        Raises:
            InputError: one cannot be loaded.
            BackendError: an engine cannot start, or has ended.
        """
        for model, queue in self._queues.items():
            on_loading(model)
            (answer,) = queue.engine.answer_prompts(model, [Prompt("1", GenerateOptions(max_output_tokens=1))])
            if isinstance(answer, TunerunError):
                raise answer

    @property
    def is_alive(self) -> bool:
        """Whether prompts are answered."""
        return all(queue.is_alive for queue in self._queues.values())

    @property
    def waiting(self) -> int:
        """How many prompts wait."""
        return sum(queue.waiting for queue in self._queues.values())

    def ask(self, model: BaseModelRef, prompt: Prompt, on_part: OnPart | None = None) -> Future[Answer]:
        """Have a prompt answered.

        Args:
            model: the base model of what is asked.
            on_part: given each further part of the answer as it comes, from another thread.

        Returns:
            The answer, or one of tunerun's errors.

        Raises:
            ServiceError: too many prompts wait, or the service is ending.
        """
        (answer,) = self.ask_together(model, [prompt], [on_part])
        return answer

    def ask_together(
        self, model: BaseModelRef, prompts: Sequence[Prompt], on_part: Sequence[OnPart | None]
    ) -> list[Future[Answer]]:
        """Have prompts answered that may share a batch: they are queued at once, or none is; see `ask`."""
        return self._queues[model].ask([*map(_Waiting, prompts, on_part)])

    def leave(self, model: BaseModelRef, answer: Future[Answer]) -> None:
        """Take a prompt back: one that waits is not answered, one that is being answered ends at the next token."""
        self._queues[model].leave(answer)

    def refuse(self) -> None:
        """Refuse what waits and what still comes; what is being answered is answered."""
        for queue in self._queues.values():
            queue.refuse()

    def end(self) -> None:
        """Refuse what waits, and let go of the engines."""
        self.refuse()
        for queue in self._queues.values():
            queue.engine.__exit__(None, None, None)


@dataclass
class _Waiting:
    """A prompt on its way to its answer.

    Attributes:
        is_begun: whether a part of the answer has been passed on.
    """

    prompt: Prompt
    on_part: OnPart | None
    answer: Future[Answer] = field(default_factory=Future)
    is_begun: bool = False

    def pass_on(self, part: AnswerPart) -> None:
        if self.on_part is not None:
            self.is_begun = True
            self.on_part(part)


class _Queue:
    """The prompts to one base model, answered in a thread of its own, in their order but for those that join."""

    def __init__(self, model: BaseModelRef, engine: LocalBackend) -> None:
        self.engine = engine
        self._model = model
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._answering: list[_Waiting] = []
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, name=f"answers of {model.name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def ask(self, asked: Sequence[_Waiting]) -> list[Future[Answer]]:
        with self._changed:
            if self._is_ending:
                raise ServiceError(Code.UNAVAILABLE, "the service is ending; ask again", retry_after_s=RETRY_AFTER_S)
            if len(self._waiting) + len(asked) > MAX_WAITING:
                raise ServiceError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{len(self._waiting):,} prompts wait for an answer, and {MAX_WAITING:,} may; ask again later",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.extend(asked)
            self._changed.notify()
        return [one.answer for one in asked]

    def leave(self, answer: Future[Answer]) -> None:
        if answer.cancel() or answer.done():
            return
        with self._changed:
            for position, each in enumerate(self._answering):
                if each.answer is answer:
                    self.engine.stop_answering(position)

    def refuse(self) -> None:
        with self._changed:
            self._is_ending = True
            for each in self._waiting:
                if each.answer.set_running_or_notify_cancel():
                    each.answer.set_exception(ServiceError(Code.UNAVAILABLE, "the service is ending; ask again"))
            self._waiting.clear()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_ending)
                if self._is_ending:
                    return
                batch = self._next_batch()
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting]:
        """The first prompt and those that may join it, without those whose clients have gone.

        The answers of a batch are there when the longest is, so none joins that may be longer than the first.
        """
        first = self._waiting[0].prompt.options.max_output_tokens
        joining = [each for each in self._waiting if each.prompt.options.max_output_tokens <= first][:MAX_TOGETHER]
        for each in joining:
            self._waiting.remove(each)
        return [each for each in joining if each.answer.set_running_or_notify_cancel()]

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        with self._changed:
            self._answering = batch
        streams = any(each.on_part is not None for each in batch)
        try:
            answers = self.engine.answer_prompts(
                self._model,
                [each.prompt for each in batch],
                (lambda position, part: batch[position].pass_on(part)) if streams else None,
            )
        except TunerunError as error:
            self._refuse(batch, error)
        else:
            for each, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Answer):
                    each.answer.set_result(answer)
                else:
                    each.answer.set_exception(answer)
        finally:
            with self._changed:
                self._answering = []

    def _refuse(self, batch: list[_Waiting], error: TunerunError) -> None:
        """Say why there is no answer; each prompt of a batch is tried alone, because one may have ended the engine."""
        for each in batch:
            if len(batch) == 1 or each.is_begun:
                each.answer.set_exception(error)
            else:
                self._answer([each])
