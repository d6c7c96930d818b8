"""Legacy completions: each prompt is sent to the model as a user's message.

Models are tuned in their base model's chat format, so a prompt is formatted like the `text_input` of a training
example. Raw text continuation is not offered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import WithJsonSchema

from tunerun.errors import TemplateError
from tunerun.generation import Answer, Prompt, TokenScore
from tunerun.service.core.model_calls import ServedModel
from tunerun.service.core.problems import Json
from tunerun.service.openai.answers import (
    CompletionAnswerer,
    PromptsOfRequest,
    StreamedPart,
    finish_reason,
    logprob,
    new_id,
)
from tunerun.service.openai.method import JsonRoute
from tunerun.service.openai.problems import wrong
from tunerun.service.openai.sampling import MAX_CHOICES, TEXTS, Int32, Sampling, check_texts, not_offered
from tunerun.service.routes import Caller

MAX_LOGPROBS = 5
"""OpenAI's own limit."""


class Completion(Sampling):
    """The body of `POST /v1/completions`."""

    prompt: Annotated[Any, WithJsonSchema(TEXTS)] = None
    logprobs: Int32 | None = None
    echo: bool = False
    suffix: str | None = None
    best_of: Int32 | None = None


def router(answerer: CompletionAnswerer) -> APIRouter:
    """Return the route of legacy completions."""
    routes = APIRouter(route_class=JsonRoute, tags=["completions"])

    @routes.post("/completions")
    async def create_completion(body: Completion, caller: Caller, request: Request) -> Response:
        texts = _texts(body)
        batch = await answerer.prepare(
            caller, body.model, "prompt", lambda model: _prompts(body, texts, model), distinct=len(texts)
        )
        if body.stream:
            return await answerer.stream(batch, _TextChunks(body, batch))
        return await answerer.complete(batch, request, _completion)

    return routes


def _texts(body: Completion) -> list[str]:
    """Return the texts of the prompts.

    Raises:
        ServiceError: a prompt is not a text, or there are none or too many.
    """
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise wrong("prompt", "must be a text or a list of texts; tokens are not supported")
    if len(texts) * max(body.n, 1) > MAX_CHOICES:  # `n` itself is checked with the other options
        raise wrong("prompt", f"{len(texts)} prompts with n={body.n}; the limit is {MAX_CHOICES} answers per request")
    check_texts({f"prompt[{number}]": text for number, text in enumerate(texts)})
    return texts


def _prompts(body: Completion, texts: Sequence[str], model: ServedModel) -> list[Prompt]:
    """Return the prompts of a request, `n` of them for each text."""
    body.check_offered()
    if body.echo:
        raise not_offered("echo")
    if body.suffix:
        raise not_offered("suffix")
    if body.best_of is not None and body.best_of != body.n:  # equal to `n`, it chooses nothing
        raise not_offered("best_of", "omit it, or set it to n")
    if body.logprobs is not None and not 0 <= body.logprobs <= MAX_LOGPROBS:
        raise wrong("logprobs", f"must be from 0 to {MAX_LOGPROBS}, not {body.logprobs}")

    options = replace(body.options(model.defaults), logprobs=body.logprobs)
    # Answer i has seed + i, as in chat, so that each can be made again by a request for one answer.
    options_by_seed = [replace(options, seed=options.seed + number) for number in range(body.n)]
    prompts = []
    for number, text in enumerate(texts):
        try:
            rendered = text if model.template is None else model.template.text_of(text)
        except TemplateError as error:
            raise wrong(f"prompt[{number}]", "; ".join(error.problems)) from error
        prompts += [Prompt(rendered, each, model.adapter) for each in options_by_seed]
    return prompts


def _completion(batch: PromptsOfRequest, answers: Sequence[Answer]) -> Json:
    choices = [
        _choice(number, answer.text, _logprobs(prompt.options.logprobs, answer.scores, 0), finish_reason(answer))
        for number, (prompt, answer) in enumerate(zip(batch.prompts, answers, strict=True))
    ]
    return _head(batch) | {"choices": choices, "usage": batch.usage(answers)}


def _head(batch: PromptsOfRequest) -> Json:
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": batch.model.name,
    }


def _choice(number: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}


class _TextChunks:
    """Chunks with text; the last one of each answer has its finish reason."""

    def __init__(self, body: Completion, batch: PromptsOfRequest) -> None:
        self._batch = batch
        self._has_usage = body.stream_options.include_usage
        self._same = _head(batch) | ({"usage": None} if self._has_usage else {})
        self._characters = [0] * len(batch.prompts)  # sent so far: `text_offset` counts from the start of the answer

    def begin(self) -> Sequence[Json]:
        """Return no chunk: the stream starts with text."""
        return []

    def of(self, part: StreamedPart) -> Sequence[Json]:
        """Return a chunk with the text or the finish reason of a part."""
        number, new = part.number, part.new
        scores = _logprobs(self._batch.prompts[number].options.logprobs, new.scores, self._characters[number])
        self._characters[number] += len(new.text)
        finish = None if part.answer is None else finish_reason(part.answer)
        return [self._same | {"choices": [_choice(number, new.text, scores, finish)]}]

    def end(self, usage: Json) -> Sequence[Json]:
        """Return a chunk with the usage, if the request has `stream_options.include_usage`."""
        return [self._same | {"choices": [], "usage": usage}] if self._has_usage else []


def _logprobs(likeliest: int | None, scores: Sequence[TokenScore], start: int) -> Json | None:
    """Return the token scores as OpenAI's four lists, with the offset of each token in the text."""
    if likeliest is None:
        return None
    offsets = [start]
    for one in scores:
        offsets.append(offsets[-1] + len(one.text))
    return {
        "tokens": [one.text for one in scores],
        "token_logprobs": [logprob(one) for one in scores],
        "top_logprobs": [{each.text: logprob(each) for each in one.likeliest} for one in scores],
        "text_offset": offsets[:-1],
    }
