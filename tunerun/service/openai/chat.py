"""Chat completions: the response, and the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from tunerun.generation import Answer, TokenScore
from tunerun.service.core.problems import Json
from tunerun.service.openai.answers import (
    CompletionAnswerer,
    PromptsOfRequest,
    StreamedPart,
    finish_reason,
    logprob,
    new_id,
)
from tunerun.service.openai.chat_request import ChatCompletion, read_prompts
from tunerun.service.openai.method import JsonRoute
from tunerun.service.routes import Caller


def router(answerer: CompletionAnswerer) -> APIRouter:
    """Return the route of chat completions."""
    routes = APIRouter(route_class=JsonRoute, tags=["chat"])

    @routes.post("/chat/completions")
    async def create_chat_completion(body: ChatCompletion, caller: Caller, request: Request) -> Response:
        batch = await answerer.prepare(caller, body.model, "messages", lambda model: read_prompts(body, model))
        if body.stream:
            return await answerer.stream(batch, _ChatChunks(body, batch))
        return await answerer.complete(batch, request, _completion)

    return routes


def _completion(batch: PromptsOfRequest, answers: Sequence[Answer]) -> Json:
    # `refusal`, `annotations` and `logprobs` as OpenAI sends them where there are none. Vercel's AI SDK (6.0) rejects a
    # response whose choices lack `index`.
    choices: list[Json] = [
        {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []},
            "logprobs": _logprobs(prompt.options.logprobs, answer.scores),
            "finish_reason": finish_reason(answer),
        }
        for number, (prompt, answer) in enumerate(zip(batch.prompts, answers, strict=True))
    ]
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": batch.model.name,
        "choices": choices,
        "usage": batch.usage(answers),
    }


class _ChatChunks:
    """Chunks with the role of each answer, then its text, then its finish reason."""

    def __init__(self, body: ChatCompletion, batch: PromptsOfRequest) -> None:
        self._batch = batch
        self._has_usage = body.stream_options.include_usage
        self._same: Json = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": batch.model.name,
            # "All other chunks will also include a usage field, but with a null value" (stream_options).
        } | ({"usage": None} if self._has_usage else {})

    def begin(self) -> Sequence[Json]:
        """Return a chunk with the role for each answer."""
        # openai for Node (7.57) raises "missing role for choice 0" in its `.stream()` without it.
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(number, delta) for number in range(len(self._batch.prompts))]

    def of(self, part: StreamedPart) -> Sequence[Json]:
        """Return a chunk with the text, if there is any, and one with the finish reason after the last part."""
        number, new = part.number, part.new
        chunks = []
        if new.text or new.scores:
            scores = _logprobs(self._batch.prompts[number].options.logprobs, new.scores)
            chunks.append(self._chunk(number, {"content": new.text}, logprobs=scores))
        if part.answer is not None:
            chunks.append(self._chunk(number, {}, finish=finish_reason(part.answer)))
        return chunks

    def end(self, usage: Json) -> Sequence[Json]:
        """Return a chunk with the usage, if the request has `stream_options.include_usage`."""
        return [self._same | {"choices": [], "usage": usage}] if self._has_usage else []

    def _chunk(self, number: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        return self._same | {
            "choices": [{"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        }


def _logprobs(likeliest: int | None, scores: Sequence[TokenScore]) -> Json | None:
    """Return the token scores in the form of chat completions; None: the request does not ask for them."""
    if likeliest is None:
        return None
    # `top_logprobs` even if it is empty: Vercel's AI SDK rejects a response without it.
    return {
        "content": [_scored(one) | {"top_logprobs": [*map(_scored, one.likeliest)]} for one in scores],
        "refusal": None,
    }


def _scored(score: TokenScore) -> dict[str, Any]:
    return {"token": score.text, "logprob": logprob(score), "bytes": [*score.bytes] if score.bytes else None}
