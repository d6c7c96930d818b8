"""Answers to prompts, by engines of their own, so that no prompt waits for a training job.

Each base model has one engine, which keeps it in memory. Prompts to a base model and to its tuned models wait in the
queue of that engine's backend, which batches them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from tunerun.backends.engine_calls import OnPart
from tunerun.backends.local import LocalBackend
from tunerun.job import Answer, BaseModelRef, GenerateOptions, Prompt
from tunerun.service.core.problems import Code, ServiceError

MAX_WAITING = 1000
"""The most prompts that may wait for one base model. At a second each, the last one waits for 16 minutes."""

RETRY_AFTER_S = 10


class Answerer:
    """Answers prompts to base models and their tuned models.

    Args:
        models: the base models.
        open_engine: makes a backend with an engine of its own.
    """

    def __init__(self, models: Sequence[BaseModelRef], open_engine: Callable[[], LocalBackend]) -> None:
        self.engines = {model: open_engine() for model in models}
        self._asking = threading.Lock()
        self._is_ending = False

    def prepare(self) -> None:
        """Find every base model, and convert or fetch those that are not ready.

        Raises:
            InputError: some cannot be found, or a package is missing.
        """
        for engine in [*self.engines.values()][:1]:
            engine.prepare([*self.engines])

    def load(self, on_loading: Callable[[BaseModelRef], None]) -> None:
        """Load every base model into memory, so that no prompt waits for it.

        Args:
            on_loading: called with each base model before it is loaded.

        Raises:
            InputError: one cannot be loaded.
            BackendError: an engine cannot start, or has ended.
        """
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
        """The number of waiting prompts."""
        return sum(engine.calls_waiting for engine in self.engines.values())

    def ask(self, model: BaseModelRef, prompt: Prompt, on_part: OnPart | None = None) -> Future[Answer]:
        """Queue a prompt; see `LocalBackend.ask`.

        Args:
            model: the base model that the prompt is for, itself or with an adapter.
            on_part: called with each further part of the answer, from another thread.

        Raises:
            ServiceError: too many prompts wait, or the service is ending.
        """
        (answer,) = self.ask_together(model, [prompt], [on_part])
        return answer

    def ask_together(
        self, model: BaseModelRef, prompts: Sequence[Prompt], on_part: Sequence[OnPart | None]
    ) -> list[Future[Answer]]:
        """Queue prompts that may share a batch: all of them, or none; see `ask`."""
        engine = self.engines[model]
        with self._asking:
            if self._is_ending:
                raise ServiceError(Code.UNAVAILABLE, "the service is ending; ask again", retry_after_s=RETRY_AFTER_S)
            if engine.calls_waiting + len(prompts) > MAX_WAITING:
                raise ServiceError(
                    Code.RESOURCE_EXHAUSTED,
                    f"{engine.calls_waiting:,} prompts wait for an answer, and {MAX_WAITING:,} may; ask again later",
                    retry_after_s=RETRY_AFTER_S,
                )
            return engine.ask(model, prompts, on_part)

    def leave(self, model: BaseModelRef, answer: Future[Answer]) -> None:
        """Cancel a prompt: one that waits is dropped, one that is being answered ends at the next token."""
        self.engines[model].leave(answer)

    def refuse(self) -> None:
        """Refuse waiting and further prompts; those that are being answered are finished."""
        with self._asking:
            self._is_ending = True
        for engine in self.engines.values():
            engine.refuse_waiting(ServiceError(Code.UNAVAILABLE, "the service is ending; ask again"))

    def end(self) -> None:
        """Refuse waiting prompts, and close the engines."""
        self.refuse()
        for engine in self.engines.values():
            engine.__exit__(None, None, None)
