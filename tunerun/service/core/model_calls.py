"""The models that a wire can call: resolves names, queues prompts and waits for answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from fastapi.concurrency import run_in_threadpool

from tunerun.errors import BackendError, BaseModelError, InputError, NotFoundError, TemplateError
from tunerun.generation import Answer, AnswerPart, Prompt
from tunerun.service.core.answerer import Answerer
from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.column_template import ColumnTemplate
from tunerun.service.core.credentials import Key
from tunerun.service.core.library import Library
from tunerun.service.core.problems import Code, ServiceError, invalid, log, not_found
from tunerun.service.core.records import ModelState, Serving
from tunerun.service.core.sweep_models import REMEDY
from tunerun.service.core.tuner import Tuner

LOOK_S = 1.0
"""Seconds between two checks whether a client is still connected."""

UNPREDICTABLE = "the tuning of this model was cancelled before its end; the quality of its answers is unpredictable"


@dataclass(frozen=True)
class ServedModel:
    """A base model or a tuned model that answers prompts.

    Attributes:
        name: the name in responses.
        offered: the base model.
        adapter: folder of the tuned model; None: this is the base model itself.
        defaults: generation options that apply where a request does not set them.
        tuned_model: id of the tuned model; None: this is the base model itself.
        warning: a caveat about its answers, sent with each of them; None: there is none.
        template: renders prompts that are rows; None: prompts are used verbatim.
        remedy: advice for the error message if its files are missing or damaged.
    """

    name: str
    offered: OfferedModel
    adapter: str | None
    defaults: Serving
    tuned_model: str | None = None
    warning: str | None = None
    template: ColumnTemplate | None = None
    remedy: str = "delete it, and create it again"

    def prepared(self, prompt: Prompt, field: str) -> Prompt:
        """Return a prompt with its system message rendered by the model's template.

        Blocks for up to a second, the limit of a template, so call it from a worker thread.

        Args:
            prompt: the prompt with the client's system message.
            field: the field of the request that holds that message, for the error.

        Raises:
            ServiceError: the template cannot be rendered with the message.
        """
        if self.template is None:
            return prompt
        try:
            return replace(prompt, system=self.template.system_of(prompt.system))
        except TemplateError as error:
            raise invalid(field, "; ".join(error.problems)) from error


class ServedModels:
    """Looks up models by name, and gets answers from them.

    Args:
        library: the tuned models, with access control.
        tuner: maps tuned models to their folders.
        answerer: the engines that answer.
    """

    def __init__(self, library: Library, tuner: Tuner, answerer: Answerer) -> None:
        self.library = library
        self._tuner = tuner
        self._answerer = answerer

    def base(self, name: str) -> ServedModel:
        """Return a base model by its name.

        Raises:
            ServiceError: no base model has that name.
        """
        offered = self.library.catalogue.find(name)
        if offered is None:
            raise not_found(f"models/{name}")
        return ServedModel(f"models/{name}", offered, None, Serving())

    def tuned(self, caller: Key, identifier: str, step: int | None = None) -> ServedModel:
        """Return a tuned model, or one of its checkpoints.

        Args:
            caller: the key of the request.
            identifier: the id, without `tunedModels/`.
            step: the step of a checkpoint, which can answer once its epoch has ended; None: the tuned model itself.

        Raises:
            ServiceError: the model does not exist or is not visible to the caller, or it cannot answer.
        """
        row = self.library.get(caller, identifier)
        offered = self.library.catalogue.find(row.base_model)
        name = f"tunedModels/{identifier}"
        if step is not None:
            folders = (epoch.folder for epoch in self.library.epochs(row) if epoch.step == step and epoch.folder)
            folder = next(folders, None)
            if folder is None:
                raise not_found(f"the checkpoint of step {step} of {name}")
            # A checkpoint answers like a finished model, also while its job continues, or after it was cancelled.
            row = replace(row, folder=folder, can_answer=True, state=ModelState.ACTIVE)
        if not row.can_answer or offered is None:
            if row.can_answer:
                words = f"was tuned from models/{row.base_model}, which is not offered any more"
            elif row.state is ModelState.CREATING:
                words = "is still being tuned; its operation shows the progress"
            else:
                words = f"cannot answer: {row.error_message}"
            raise ServiceError(Code.FAILED_PRECONDITION, f"{name} {words}")
        adapter = str(self._tuner.folder_of(row.folder))
        warning = UNPREDICTABLE if row.state is ModelState.FAILED else None
        of_sweep = self.library.sweep_models.get(identifier)
        if of_sweep is None:
            return ServedModel(name, offered, adapter, row.serving, identifier, warning)
        # Checked on each call: the sweep's folders are its owner's, who may train again or delete while this serves.
        if (fault := of_sweep.fault()) is not None:
            log.error("a sweep's tuned model cannot be used", extra={"fields": {"tuned_model": row.id, "fault": fault}})
            raise _damaged(name, REMEDY)
        return ServedModel(
            name, offered, adapter, of_sweep.serving, identifier, template=of_sweep.template, remedy=REMEDY
        )

    def ask(
        self, model: ServedModel, prompts: Sequence[Prompt], on_part: Callable[[int, AnswerPart], None] | None = None
    ) -> list[Future[Answer]]:
        """Queue prompts.

        Args:
            model: the model that answers.
            prompts: as returned by `ServedModel.prepared`.
            on_part: called with a prompt's position and each new part of its answer, from another thread; None: the
                answers arrive whole.

        Returns:
            A future for each prompt.

        Raises:
            ServiceError: the queue is full, or the service is shutting down.
        """
        parts = [None if on_part is None else partial(on_part, number) for number in range(len(prompts))]
        return self._answerer.ask(model.offered.model, prompts, parts)

    def leave(self, model: ServedModel, answer: Future[Answer]) -> None:
        """Cancel a prompt whose client has disconnected; see `Answerer.leave`."""
        self._answerer.leave(model.offered.model, answer)

    async def answered(
        self,
        model: ServedModel,
        answers: list[Future[Answer]],
        is_disconnected: Callable[[], Awaitable[bool]],
        field: str,
    ) -> list[Answer]:
        """Wait for answers; cancel them if their client disconnects.

        Args:
            model: the model that answers.
            answers: the futures that `ask` has returned.
            is_disconnected: whether the client has disconnected; called every `LOOK_S` seconds.
            field: the field of the request that holds the prompt, for errors.

        Raises:
            ServiceError: a prompt cannot be answered, or the client has disconnected.
        """
        # A client that hangs up is only noticed by looking: an ASGI server does not cancel its request.
        waiting = asyncio.gather(*(self.awaited(answer, model, field) for answer in answers))
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
                if await is_disconnected():
                    raise ServiceError(Code.CANCELLED, "the client is gone")
            return list(await waiting)
        finally:
            for answer in answers:
                if not answer.done():
                    self.leave(model, answer)
            waiting.cancel()  # if one of several answers failed, stop waiting for the others

    async def awaited(self, future: Future[Answer], model: ServedModel, field: str) -> Answer:
        """Wait for one answer, and translate the engine's errors; cancelling this coroutine cancels the prompt.

        Raises:
            ServiceError: the prompt cannot be answered.
        """
        try:
            answer: Answer = await asyncio.wrap_future(future)
        except NotFoundError as error:
            # Deleted while its prompt waited: answered like any model that does not exist.
            if model.tuned_model and not await run_in_threadpool(self.library.is_there, model.tuned_model):
                raise not_found(model.name) from error
            log.exception("a tuned model cannot be used")
            raise _damaged(model.name, model.remedy) from error
        except BaseModelError as error:
            log.exception("a base model cannot be used")
            words = f"{model.name}: its base model is unavailable; see the service's log"
            raise ServiceError(Code.UNAVAILABLE, words, retry_after_s=60) from error
        except InputError as error:
            raise invalid(field, str(error)) from error
        except BackendError as error:
            log.exception("the engine has ended")
            words = "the inference engine died and is restarting; retry"
            raise ServiceError(Code.UNAVAILABLE, words, retry_after_s=5) from error
        return answer


def _damaged(name: str, remedy: str) -> ServiceError:
    words = f"{name}: what was stored of it is missing or damaged; {remedy}"
    return ServiceError(Code.FAILED_PRECONDITION, words)
