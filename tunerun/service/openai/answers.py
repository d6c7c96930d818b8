"""Answers to the prompts of one request, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from tunerun.errors import NoTurnsError
from tunerun.job import Answer, AnswerPart, Prompt, TokenScore
from tunerun.service.core.credentials import Key
from tunerun.service.core.model_calls import ServedModel, ServedModels
from tunerun.service.core.problems import Json, ServiceError
from tunerun.service.core.records import Serving
from tunerun.service.openai.models import Models
from tunerun.service.openai.problems import OpenAiError, no_such_model, refusal, wrong

WARNING_HEADER = "x-tunerun-warning"


@dataclass(frozen=True)
class Event:
    """A part of one of the answers.

    Attributes:
        number: of the answer, from 0.
        answer: the whole answer, with its last part; None: more is to come.
    """

    number: int
    part: AnswerPart
    answer: Answer | None = None


class Chunks(Protocol):
    """The chunks of a stream, by the kind of completion; made for one request."""

    def begin(self) -> Sequence[Json]:
        """The chunks before the first part."""
        ...

    def of(self, event: Event) -> Sequence[Json]:
        """The chunks of a part; none where it has nothing to send."""
        ...

    def end(self, usage: Json) -> Sequence[Json]:
        """The chunks after the last part."""
        ...


@dataclass(frozen=True)
class AnswerRequest:
    """The prompts of a request and the model that they are for.

    Attributes:
        field: of the request that holds the prompts.
        prompts: one for each answer.
        prompt_tokens: of the prompts together, each counted once however many answers it has.
    """

    called: ServedModel
    field: str
    prompts: Sequence[Prompt]
    prompt_tokens: int

    def usage(self, answers: Sequence[Answer]) -> Json:
        """The token counts of a request."""
        completion = sum(answer.tokens for answer in answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


class CompletionAnswerer:
    """Answers requests of completions.

    Args:
        models: what the names of this wire mean.
    """

    def __init__(self, models: Models, called: ServedModels) -> None:
        self._models = models
        self._called = called

    async def prepare(
        self,
        caller: Key,
        model: str,
        field: str,
        read: Callable[[ServedModel], list[Prompt]],
        distinct: int | None = None,
    ) -> AnswerRequest:
        """Look up the model of a request, and prepare its prompts.

        Args:
            read: takes the prompts from the request.
            distinct: how many of the first prompts differ in more than their seed; None: one does.

        Raises:
            ServiceError: there is no such model, it cannot answer, or the request is refused.
        """

        def ready() -> AnswerRequest:
            called = self._named(caller, model)
            prompts = [called.prepared(one, field) for one in read(called)]
            counts = [self._count(called, field, prompt) for prompt in prompts[:: len(prompts) // (distinct or 1)]]
            return AnswerRequest(called, field, prompts, sum(counts))

        return await run_in_threadpool(ready)  # a template may take up to a second, in which others are answered

    def _named(self, caller: Key, model: str) -> ServedModel:
        found = self._models.find(caller, model)
        if found.row is None:
            if found.offered is None:
                raise no_such_model(model)
            return ServedModel(model, found.offered, None, Serving())
        try:
            return replace(self._called.tuned(caller, found.row.id, found.step), name=model)
        except OpenAiError:
            raise
        except ServiceError as error:
            raise OpenAiError(error.code, error.message, param="model") from error

    def _count(self, called: ServedModel, field: str, prompt: Prompt) -> int:
        """Count the tokens of a prompt, and refuse one that leaves no room for an answer."""
        try:
            tokens = called.offered.counter.count_input(prompt.asked)
        except NoTurnsError as error:
            raise wrong(field, str(error)) from error
        limit = called.offered.context_tokens
        if limit is not None and tokens >= limit:
            words = f"takes {tokens:,} tokens, and the model reads {limit:,} with the answer; shorten it"
            raise wrong(field, words, "context_length_exceeded")
        return tokens

    async def whole(
        self, asked: AnswerRequest, request: Request, rendered: Callable[[AnswerRequest, Sequence[Answer]], Json]
    ) -> JSONResponse:
        """Wait for all answers."""
        futures = self._called.ask(asked.called, asked.prompts)
        answers = await self._called.answered(asked.called, futures, request.is_disconnected, asked.field)
        return _warned(JSONResponse(rendered(asked, answers)), asked.called)

    async def stream(self, asked: AnswerRequest, chunks: Chunks) -> StreamingResponse:
        """Stream the answers as server-sent events; an error before the first part is a plain response."""
        events = self._events(asked)
        first = await anext(events)
        headers = {"cache-control": "no-cache"}
        lines = written(chunks, asked.usage, first, events)
        return _warned(StreamingResponse(lines, media_type="text/event-stream", headers=headers), asked.called)

    async def _events(self, asked: AnswerRequest) -> AsyncGenerator[Event]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, AnswerPart | None]] = asyncio.Queue()

        def tell(number: int, part: AnswerPart | None = None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (number, part))

        futures = self._called.ask(asked.called, asked.prompts, tell)
        for number, future in enumerate(futures):
            future.add_done_callback(partial(_tell_end, tell, number))
        sent = {number: AnswerPart("") for number in range(len(futures))}
        try:
            while sent:
                number, part = await arrived.get()
                if part is not None:
                    before = sent[number]
                    sent[number] = AnswerPart(before.text + part.text, before.scores + part.scores)
                    yield Event(number, part)
                else:
                    before = sent.pop(number)
                    answer = await self._called.awaited(futures[number], asked.called, asked.field)
                    rest = AnswerPart(answer.text[len(before.text) :], answer.scores[len(before.scores) :])
                    yield Event(number, rest, answer)
        finally:
            for future in futures:
                self._called.leave(asked.called, future)  # where it is not whole, its client has gone


def _tell_end(tell: Callable[[int], None], number: int, _future: object) -> None:
    tell(number)


async def written(
    chunks: Chunks, usage: Callable[[Sequence[Answer]], Json], first: Event, events: AsyncGenerator[Event]
) -> AsyncIterator[str]:
    """The lines of a stream; an error becomes the last one, since the status has been sent."""
    answers: list[Answer] = []
    try:
        async with aclosing(events):
            for chunk in chunks.begin():
                yield _line(chunk)
            event: Event | None = first
            while event is not None:
                for chunk in chunks.of(event):
                    yield _line(chunk)
                if event.answer is not None:
                    answers.append(event.answer)
                event = await anext(events, None)
            for chunk in chunks.end(usage(answers)):
                yield _line(chunk)
            yield "data: [DONE]\n\n"
    except ServiceError as error:
        yield _line(refusal(error)[1])


def _line(content: Json) -> str:
    return f"data: {json.dumps(content)}\n\n"


ResponseT = TypeVar("ResponseT", bound=Response)


def _warned(response: ResponseT, called: ServedModel) -> ResponseT:
    if called.warning is not None:
        response.headers[WARNING_HEADER] = called.warning
    return response


def finish_reason(answer: Answer) -> str:
    """Why an answer ended, in OpenAI's terms."""
    return "length" if answer.is_cut else "stop"


def new_id(kind: str) -> str:
    """The id of an answer; nothing is stored under it."""
    return f"{kind}-{secrets.token_hex(12)}"


LEAST_LOGPROB = -9999.0
"""OpenAI's value for a token that is nearly impossible; JSON cannot hold an infinity."""


def logprob(score: TokenScore) -> float:
    """The logarithm of a token's probability, limited to what JSON can hold."""
    return max(score.logprob, LEAST_LOGPROB)
