"""Answers to the prompts of one request, complete or streamed."""

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
class StreamedPart:
    """A new part of one of the answers.

    Attributes:
        number: index of the answer, from 0.
        part: the new text and its token scores.
        answer: the complete answer if this is its last part; None: more parts follow.
    """

    number: int
    part: AnswerPart
    answer: Answer | None = None


class Chunks(Protocol):
    """Builds the chunks of one request's stream; chat and legacy completions each have an implementation."""

    def begin(self) -> Sequence[Json]:
        """Return the chunks before the first part."""
        ...

    def of(self, event: StreamedPart) -> Sequence[Json]:
        """Return the chunks for a part; empty if there is nothing to send."""
        ...

    def end(self, usage: Json) -> Sequence[Json]:
        """Return the chunks after the last part.

        Args:
            usage: the token counts of the request.
        """
        ...


@dataclass(frozen=True)
class AnswerRequest:
    """The prompts of a request, and the model that answers them.

    Attributes:
        called: the model.
        field: the field of the request that holds the prompts, for errors.
        prompts: one for each answer.
        prompt_tokens: tokens of all prompts; each is counted once, however many answers it has.
    """

    called: ServedModel
    field: str
    prompts: Sequence[Prompt]
    prompt_tokens: int

    def usage(self, answers: Sequence[Answer]) -> Json:
        """Return the token counts of the request."""
        completion = sum(answer.tokens for answer in answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


class CompletionAnswerer:
    """Answers requests for chat and legacy completions.

    Args:
        models: resolves the model names of this wire.
        called: queues prompts and waits for answers.
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
            caller: the key of the request.
            model: the model name of the request.
            field: the field of the request that holds the prompts, for errors.
            read: returns the prompts of the request for the model.
            distinct: number of prompts that differ in more than their seed; None: 1.

        Raises:
            ServiceError: the model does not exist or cannot answer, or the request is invalid.
        """

        def ready() -> AnswerRequest:
            called = self._named(caller, model)
            prompts = [called.prepared(one, field) for one in read(called)]
            counts = [self._count(called, field, prompt) for prompt in prompts[:: len(prompts) // (distinct or 1)]]
            return AnswerRequest(called, field, prompts, sum(counts))

        # In a thread, since rendering a template may take up to a second, which would block all other requests.
        return await run_in_threadpool(ready)

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
        """Return the number of tokens of a prompt; refuse it if there is no room for an answer."""
        try:
            tokens = called.offered.counter.count_input(prompt.asked)
        except NoTurnsError as error:
            raise wrong(field, str(error)) from error
        limit = called.offered.context_tokens
        if limit is not None and tokens >= limit:
            words = f"has {tokens:,} tokens; the model's limit is {limit:,} including the answer; shorten it"
            raise wrong(field, words, "context_length_exceeded")
        return tokens

    async def whole(
        self, asked: AnswerRequest, request: Request, rendered: Callable[[AnswerRequest, Sequence[Answer]], Json]
    ) -> JSONResponse:
        """Wait for all answers, and return the response that `rendered` builds from them."""
        futures = self._called.ask(asked.called, asked.prompts)
        answers = await self._called.answered(asked.called, futures, request.is_disconnected, asked.field)
        return _warned(JSONResponse(rendered(asked, answers)), asked.called)

    async def stream(self, asked: AnswerRequest, chunks: Chunks) -> StreamingResponse:
        """Stream the answers as server-sent events; an error before the first part becomes an error response."""
        events = self._events(asked)
        first = await anext(events)
        headers = {"cache-control": "no-cache"}
        lines = written(chunks, asked.usage, first, events)
        return _warned(StreamingResponse(lines, media_type="text/event-stream", headers=headers), asked.called)

    async def _events(self, asked: AnswerRequest) -> AsyncGenerator[StreamedPart]:
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
                    yield StreamedPart(number, part)
                else:
                    before = sent.pop(number)
                    answer = await self._called.awaited(futures[number], asked.called, asked.field)
                    rest = AnswerPart(answer.text[len(before.text) :], answer.scores[len(before.scores) :])
                    yield StreamedPart(number, rest, answer)
        finally:
            for future in futures:
                self._called.leave(asked.called, future)  # an incomplete answer: its client disconnected


def _tell_end(tell: Callable[[int], None], number: int, _future: object) -> None:
    tell(number)


async def written(
    chunks: Chunks, usage: Callable[[Sequence[Answer]], Json], first: StreamedPart, events: AsyncGenerator[StreamedPart]
) -> AsyncIterator[str]:
    """Yield the lines of a stream; an error becomes the last line, since the status has already been sent."""
    answers: list[Answer] = []
    try:
        async with aclosing(events):
            for chunk in chunks.begin():
                yield _line(chunk)
            event: StreamedPart | None = first
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
    """Return why an answer ended, in OpenAI's terms."""
    return "length" if answer.is_cut else "stop"


def new_id(kind: str) -> str:
    """Return a random id for an answer; nothing is stored under it."""
    return f"{kind}-{secrets.token_hex(12)}"


LEAST_LOGPROB = -9999.0
"""OpenAI's value for a nearly impossible token; JSON cannot represent infinity."""


def logprob(score: TokenScore) -> float:
    """Return the natural logarithm of a token's probability, but at least `LEAST_LOGPROB`."""
    return max(score.logprob, LEAST_LOGPROB)
