"""Answers to prompts, by engines of their own, so that no prompt waits for a training job.

An engine keeps its base model in memory. Prompts to the base model and to its tuned models share one queue, and the
backend of that engine batches them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack

from tunerun.backends.local import LocalBackend
from tunerun.backends.local.engine_calls import OnPart
from tunerun.generation import Answer, GenerateOptions, Prompt
from tunerun.job import BaseModelRef
from tunerun.service.core.problems import Code, ServiceError

MAX_WAITING = 1000
"""Limit of queued prompts per base model. At one second each, the last one waits 16 minutes."""

RETRY_AFTER_S = 10
"""Seconds that a refused client is asked to wait. Our choice: at one second each, ten prompts are answered by then."""


class Answerer:
    """Answers prompts to base models and their tuned models.

    Args:
        models: the base models to keep in memory.
        open_engine: returns a new backend with its own engine; called once for each base model.
    """

    def __init__(self, models: Sequence[BaseModelRef], open_engine: Callable[[], LocalBackend]) -> None:
        self._closing = ExitStack()
        self.engines = {model: self._closing.enter_context(open_engine()) for model in models}
        self._asking = threading.Lock()
        self._is_ending = False

    def prepare(self) -> None:
        """Find every base model, and convert or fetch those that are not ready.

        Raises:
            InputError: base models cannot be found, or a package is missing.
        """
        # Base models are converted into one cache, so the first engine prepares them for all.
        first = next(iter(self.engines.values()), None)
        if first is not None:
            first.prepare([*self.engines])

    def load(self, on_loading: Callable[[BaseModelRef], None]) -> None:
        """Load every base model into memory, so that no prompt waits for it.

        Args:
            on_loading: called with each base model before it is loaded.

        Raises:
            InputError: a base model cannot be loaded.
            BackendError: an engine cannot start, or it died.
        """
        # Engines load a base model with their first command, so a one-token answer is the cheapest way to load it.
        for model, engine in self.engines.items():
            on_loading(model)
            (answer,) = engine.ask(model, [Prompt("1", GenerateOptions(max_output_tokens=1))], [None])
            answer.result()

    @property
    def is_alive(self) -> bool:
        """Whether every engine accepts prompts."""
        return all(engine.is_open for engine in self.engines.values())

    @property
    def waiting(self) -> int:
        """Number of queued prompts, over all base models."""
        return sum(engine.calls_waiting for engine in self.engines.values())

    def ask(
        self, model: BaseModelRef, prompts: Sequence[Prompt], on_part: Sequence[OnPart | None]
    ) -> list[Future[Answer]]:
        """Queue prompts, which may share a batch: either all are accepted or none; see `LocalBackend.ask`.

        Args:
            model: the base model to load; `prompt.adapter` selects a tuned model of it.
            prompts: the inputs, each with its generation options.
            on_part: for each prompt: called with each new part of its answer, from another thread; None: not streamed.

        Returns:
            A future for each whole answer.

        Raises:
            ServiceError: the queue is full, or the service is shutting down.
        """
        engine = self.engines[model]
        # One caller at a time: no prompt passes the limit between its check and its place in the queue, and none is
        # queued after `refuse` has emptied it.
        with self._asking:
            if self._is_ending:
                raise ServiceError(Code.UNAVAILABLE, "the service is ending; ask again", retry_after_s=RETRY_AFTER_S)
            if engine.calls_waiting + len(prompts) > MAX_WAITING:
                raise ServiceError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{engine.calls_waiting:,} prompts are queued, the limit is {MAX_WAITING:,}; retry later",
                    retry_after_s=RETRY_AFTER_S,
                )
            return engine.ask(model, prompts, on_part)

    def leave(self, model: BaseModelRef, answer: Future[Answer]) -> None:
        """Cancel a prompt: a queued one is dropped, a running one ends at the next token."""
        self.engines[model].cancel_answer(answer)

    def refuse(self) -> None:
        """Refuse queued and new prompts; running ones are completed."""
        # First new ones, then queued ones: a prompt that came in between would wait for an engine that is closed.
        with self._asking:
            self._is_ending = True
        for engine in self.engines.values():
            engine.refuse_prompts(ServiceError(Code.UNAVAILABLE, "the service is ending; ask again"))

    def end(self) -> None:
        """Refuse queued prompts, and close the engines."""
        self.refuse()
        self._closing.close()
