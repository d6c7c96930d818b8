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
from tunerun.job import Answer, GenerateOptions, Prompt, TokenScore
from tunerun.service.core.model_calls import ServedModel
from tunerun.service.core.problems import Json
from tunerun.service.openai.answers import (
    AnswerRequest,
    CompletionAnswerer,
    StreamedPart,
    finish_reason,
    logprob,
    new_id,
)
from tunerun.service.openai.method import Caller, Operation
from tunerun.service.openai.problems import wrong
from tunerun.service.openai.sampling import MAX_CHOICES, TEXTS, Int32, Sampling, check_texts, not_offered

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
    found = APIRouter(route_class=Operation, tags=["completions"])

    @found.post("/completions")
    async def create_completion(body: Completion, caller: Caller, request: Request) -> Response:
        texts = _texts(body)
        asked = await answerer.prepare(
            caller, body.model, "prompt", lambda called: _prompts(body, texts, called), distinct=len(texts)
        )
        if body.stream:
            return await answerer.stream(asked, _TextChunks(body, asked))
        return await answerer.whole(asked, request, _completion)

    return found


def _texts(asked: Completion) -> list[str]:
    """Return the texts of the prompts.

    Raises:
        ServiceError: a prompt is not a text, or there are none or too many.
    """
    texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise wrong("prompt", "must be a text or a list of texts; tokens are not supported")
    if len(texts) * max(asked.n, 1) > MAX_CHOICES:
        raise wrong("prompt", f"{len(texts)} prompts with n={asked.n}; the limit is {MAX_CHOICES} answers per request")
    check_texts({f"prompt[{number}]": text for number, text in enumerate(texts)})
    return texts


def _prompts(asked: Completion, texts: Sequence[str], called: ServedModel) -> list[Prompt]:
    asked.check_offered()
    if asked.echo:
        raise not_offered("echo")
    if asked.suffix:
        raise not_offered("suffix")
    if asked.best_of is not None and asked.best_of != asked.n:
        raise not_offered("best_of", "omit it, or set it to n")
    options = _options(asked, called)
    seeds = [replace(options, seed=options.seed + number) for number in range(asked.n)]
    rendered = [_rendered(text, number, called) for number, text in enumerate(texts)]
    return [Prompt(text, each, called.adapter) for text in rendered for each in seeds]


def _options(asked: Completion, called: ServedModel) -> GenerateOptions:
    if asked.logprobs is not None and not 0 <= asked.logprobs <= MAX_LOGPROBS:
        raise wrong("logprobs", f"must be from 0 to {MAX_LOGPROBS}, not {asked.logprobs}")
    return replace(asked.options(called.defaults), logprobs=asked.logprobs)


def _rendered(text: str, number: int, called: ServedModel) -> str:
    if called.template is None:
        return text
    try:
        return called.template.text_of(text)
    except TemplateError as error:
        raise wrong(f"prompt[{number}]", "; ".join(error.problems)) from error


def _completion(asked: AnswerRequest, answers: Sequence[Answer]) -> Json:
    choices = [
        _choice(number, answer.text, _logprobs(prompt.options.logprobs, answer.scores, 0), finish_reason(answer))
        for number, (prompt, answer) in enumerate(zip(asked.prompts, answers, strict=True))
    ]
    return _head(asked) | {"choices": choices, "usage": asked.usage(answers)}


def _head(asked: AnswerRequest) -> Json:
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": asked.called.name,
    }


def _choice(number: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}


class _TextChunks:
    """Chunks with text; the last one of each answer has its finish reason."""

    def __init__(self, body: Completion, asked: AnswerRequest) -> None:
        self._asked = asked
        self._has_usage = body.stream_options.include_usage
        self._same = _head(asked) | ({"usage": None} if self._has_usage else {})
        self._characters = [0] * len(asked.prompts)

    def begin(self) -> Sequence[Json]:
        """Return no chunk: the stream starts with text."""
        return []

    def of(self, event: StreamedPart) -> Sequence[Json]:
        """Return a chunk with the text or the finish reason of a part."""
        number, part = event.number, event.part
        scores = _logprobs(self._asked.prompts[number].options.logprobs, part.scores, self._characters[number])
        self._characters[number] += len(part.text)
        finish = None if event.answer is None else finish_reason(event.answer)
        return [self._same | {"choices": [_choice(number, part.text, scores, finish)]}]

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
