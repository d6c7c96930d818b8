"""Answers to prompts by one engine of its own, so that no prompt waits for a training job.

Prompts that wait for the same model with the same options are answered together. What samples, or is streamed, is
answered alone: a batch would change its random numbers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from tunerun.backends.local import LocalBackend
from tunerun.errors import TunerunError
from tunerun.job import Answer, BaseModelRef, GenerateOptions, TunedModel
from tunerun.service.problems import Code, ServiceError

MAX_WAITING = 1000
"""Prompts that may wait; one more is refused. At a second each the last one waits a quarter of an hour."""

MAX_TOGETHER = 16
"""Prompts of one batch, as many as the engine takes at once."""

RETRY_AFTER_S = 10


@dataclass
class _Prompt:
    model: BaseModelRef | TunedModel
    text: str
    options: GenerateOptions
    on_text: Callable[[str], None] | None
    answer: Future[Answer] = field(default_factory=Future)
    is_left: bool = False

    def may_join(self, other: _Prompt) -> bool:
        alone = self.on_text is not None or other.on_text is not None or self.options.temperature > 0
        return not alone and self.model == other.model and self.options == other.options


class Answerer:
    """Answers prompts in a thread of its own, in their order but for those that join an earlier one."""

    def __init__(self, engine: LocalBackend) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._waiting: deque[_Prompt] = deque()
        self._answering: list[_Prompt] = []
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, name="answerer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether prompts are answered."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many prompts wait."""
        return len(self._waiting)

    def ask(
        self,
        model: BaseModelRef | TunedModel,
        text: str,
        options: GenerateOptions,
        on_text: Callable[[str], None] | None = None,
    ) -> Future[Answer]:
        """Have a prompt answered.

        Args:
            on_text: given each further part of the answer as it comes, from another thread.

        Returns:
            The answer, or one of tunerun's errors.

        Raises:
            ServiceError: too many prompts wait, or the service is ending.
        """
        prompt = _Prompt(model, text, options, on_text)
        with self._changed:
            if self._is_ending:
                raise ServiceError(Code.UNAVAILABLE, "the service is ending; ask again", retry_after_s=RETRY_AFTER_S)
            if len(self._waiting) >= MAX_WAITING:
                raise ServiceError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{MAX_WAITING:,} prompts wait for an answer; ask again later",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._waiting.append(prompt)
            self._changed.notify()
        return prompt.answer

    def leave(self, answer: Future[Answer]) -> None:
        """Take a prompt back: one that waits is not answered, and answers that all have left end at the next token."""
        if answer.cancel() or answer.done():
            return
        with self._changed:
            for prompt in self._answering:
                prompt.is_left = prompt.is_left or prompt.answer is answer
            nobody_listens = bool(self._answering) and all(prompt.is_left for prompt in self._answering)
        if nobody_listens:
            self._engine.stop_answering()

    def refuse(self) -> None:
        """Refuse what waits and what still comes; what is being answered is answered."""
        with self._changed:
            self._is_ending = True
            for prompt in self._waiting:
                if prompt.answer.set_running_or_notify_cancel():
                    prompt.answer.set_exception(ServiceError(Code.UNAVAILABLE, "the service is ending; ask again"))
            self._waiting.clear()
            self._changed.notify()

    def end(self) -> None:
        """Refuse what waits, and let go of the engine."""
        self.refuse()
        self._engine.__exit__(None, None, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_ending)
                if self._is_ending:
                    return
                batch = self._next_batch()
                self._answering = batch
            self._answer(batch)
            with self._changed:
                self._answering = []

    def _next_batch(self) -> list[_Prompt]:
        """The first prompt and those that may join it, without those whose clients have gone."""
        first = self._waiting.popleft()
        joining = [prompt for prompt in self._waiting if first.may_join(prompt)][: MAX_TOGETHER - 1]
        for prompt in joining:
            self._waiting.remove(prompt)
        return [prompt for prompt in (first, *joining) if prompt.answer.set_running_or_notify_cancel()]

    def _answer(self, batch: list[_Prompt]) -> None:
        if not batch:
            return
        first = batch[0]
        try:
            answers = self._engine.answer(first.model, [p.text for p in batch], first.options, first.on_text)
        except TunerunError as error:
            self._refuse(batch, error)
        else:
            for prompt, answer in zip(batch, answers, strict=True):
                prompt.answer.set_result(answer)

    def _refuse(self, batch: list[_Prompt], error: TunerunError) -> None:
        """Say why there is no answer; of a batch each prompt is tried alone, for one too long is no other's fault."""
        if len(batch) == 1:
            batch[0].answer.set_exception(error)
            return
        for prompt in batch:
            self._answer([prompt])
