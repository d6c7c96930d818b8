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
from tunerun.generation import Answer, AnswerPart, Prompt, TokenScore
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
        new: the new text and its token scores.
        answer: the complete answer if this is its last part; None: more parts follow.
    """

    number: int
    new: AnswerPart
    answer: Answer | None = None


class Chunks(Protocol):
    """Builds the chunks of one request's stream; chat and legacy completions each have an implementation."""

    def begin(self) -> Sequence[Json]:
        """Return the chunks before the first part."""
        ...

    def of(self, part: StreamedPart) -> Sequence[Json]:
        """Return the chunks for a part; empty if there is nothing to send."""
        ...

    def end(self, usage: Json) -> Sequence[Json]:
        """Return the chunks after the last part.

        Args:
            usage: the token counts of the request.
        """
        ...


@dataclass(frozen=True)
class PromptsOfRequest:
    """The prompts of a request, and the model that answers them.

    Attributes:
        model: the model.
        field: the field of the request that holds the prompts, for errors.
        prompts: one for each answer.
        prompt_tokens: tokens of all prompts; each is counted once, however many answers it has.
    """

    model: ServedModel
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
        served: queues prompts and waits for answers.
    """

    def __init__(self, models: Models, served: ServedModels) -> None:
        self._models = models
        self._served = served

    async def prepare(
        self,
        caller: Key,
        name: str,
        field: str,
        read: Callable[[ServedModel], list[Prompt]],
        distinct: int | None = None,
    ) -> PromptsOfRequest:
        """Look up the model of a request, and prepare its prompts.

        Args:
            caller: the key of the request.
            name: the model name of the request.
            field: the field of the request that holds the prompts, for errors.
            read: returns the prompts of the request for the model.
            distinct: number of prompts that differ in more than their seed; None: 1.

        Raises:
            ServiceError: the model does not exist or cannot answer, the request is invalid, or a prompt leaves no room
                for an answer in the model's context.
        """

        def prepared() -> PromptsOfRequest:
            named = self._models.find(caller, name)
            if named.row is not None:
                try:
                    model = replace(self._served.tuned(caller, named.row.id, named.step), name=name)
                except ServiceError as error:
                    raise OpenAiError(error.code, error.message, param="model") from error
            elif named.offered is not None:
                model = ServedModel(name, named.offered, None, Serving())
            else:
                raise no_such_model(name)

            prompts = [model.prepared(prompt, field) for prompt in read(model)]
            total, limit = 0, model.offered.context_tokens
            # The answers to one prompt differ only in their seeds, so its tokens are counted once.
            for prompt in prompts[:: len(prompts) // (distinct or 1)]:
                try:
                    tokens = model.offered.counter.count_input(prompt.input)
                except NoTurnsError as error:
                    raise wrong(field, str(error)) from error
                if limit is not None and tokens >= limit:
                    words = f"has {tokens:,} tokens; the model's limit is {limit:,} including the answer; shorten it"
                    raise wrong(field, words, "context_length_exceeded")
                total += tokens
            return PromptsOfRequest(model, field, prompts, total)

        # In a thread, since rendering a template may take up to a second, which would block all other requests.
        return await run_in_threadpool(prepared)

    async def complete(
        self, batch: PromptsOfRequest, request: Request, body: Callable[[PromptsOfRequest, Sequence[Answer]], Json]
    ) -> JSONResponse:
        """Wait for all answers, and return them in one response.

        Args:
            batch: the prompts.
            request: the request; if its client disconnects, the prompts are cancelled.
            body: returns the body of the response.
        """
        futures = self._served.ask(batch.model, batch.prompts)
        answers = await self._served.answered(batch.model, futures, request.is_disconnected, batch.field)
        return _with_warning(JSONResponse(body(batch, answers)), batch.model)

    async def stream(self, batch: PromptsOfRequest, chunks: Chunks) -> StreamingResponse:
        """Stream the answers as server-sent events.

        Args:
            batch: the prompts.
            chunks: builds the events.
        """
        parts = self._parts(batch)
        first = await anext(parts)  # an error before the first part becomes an error response with its own status
        lines = event_lines(chunks, batch.usage, first, parts)
        response = StreamingResponse(lines, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        return _with_warning(response, batch.model)

    async def _parts(self, batch: PromptsOfRequest) -> AsyncGenerator[StreamedPart]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, AnswerPart | None]] = asyncio.Queue()

        # Called in an engine's thread: with each new part, and with None once the answer has ended.
        def put(number: int, part: AnswerPart | None, _future: object = None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (number, part))

        futures = self._served.ask(batch.model, batch.prompts, put)
        for number, future in enumerate(futures):
            future.add_done_callback(partial(put, number, None))
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
                    # The rest of the text: the engine holds back what may be the start of a stop sequence.
                    answer = await self._served.awaited(futures[number], batch.model, batch.field)
                    rest = AnswerPart(answer.text[len(before.text) :], answer.scores[len(before.scores) :])
                    yield StreamedPart(number, rest, answer)
        finally:
            for future in futures:
                self._served.leave(batch.model, future)  # an incomplete answer: its client disconnected


async def event_lines(
    chunks: Chunks,
    usage: Callable[[Sequence[Answer]], Json],
    first: StreamedPart,
    parts: AsyncGenerator[StreamedPart],
) -> AsyncIterator[str]:
    """Yield the lines of a stream; an error becomes the last line, since the status has already been sent.

    Args:
        chunks: builds the chunks.
        usage: returns the token counts of the answers.
        first: the first part, which has already been taken from `parts`.
        parts: the other parts; closed at the end.
    """
    answers: list[Answer] = []
    try:
        async with aclosing(parts):
            for chunk in chunks.begin():
                yield _line(chunk)
            part: StreamedPart | None = first
            while part is not None:
                for chunk in chunks.of(part):
                    yield _line(chunk)
                if part.answer is not None:
                    answers.append(part.answer)
                part = await anext(parts, None)
            for chunk in chunks.end(usage(answers)):
                yield _line(chunk)
            yield "data: [DONE]\n\n"
    except ServiceError as error:
        yield _line(refusal(error)[1])  # both SDKs raise an APIError for an event with the key `error`


def _line(content: Json) -> str:
    # With the blank line after it, also at the end: openai-python (3.57) drops a last event that lacks it.
    return f"data: {json.dumps(content)}\n\n"


ResponseT = TypeVar("ResponseT", bound=Response)


def _with_warning(response: ResponseT, model: ServedModel) -> ResponseT:
    if model.warning is not None:
        response.headers[WARNING_HEADER] = model.warning
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
