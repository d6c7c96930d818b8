"""Chat completions: the response, and the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from tunerun.job import Answer, TokenScore
from tunerun.service.core.problems import Json
from tunerun.service.openai.answers import (
    AnswerRequest,
    CompletionAnswerer,
    StreamedPart,
    finish_reason,
    logprob,
    new_id,
)
from tunerun.service.openai.chat_request import ChatCompletion, read_prompts
from tunerun.service.openai.method import Caller, Operation


def router(answerer: CompletionAnswerer) -> APIRouter:
    """Return the route of chat completions."""
    found = APIRouter(route_class=Operation, tags=["chat"])

    @found.post("/chat/completions")
    async def create_chat_completion(body: ChatCompletion, caller: Caller, request: Request) -> Response:
        asked = await answerer.prepare(caller, body.model, "messages", lambda called: read_prompts(body, called))
        if body.stream:
            return await answerer.stream(asked, _ChatChunks(body, asked))
        return await answerer.whole(asked, request, _completion)

    return found


def _completion(asked: AnswerRequest, answers: Sequence[Answer]) -> Json:
    choices: list[Json] = [
        {
            "index": number,
            "message": {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []},
            "logprobs": _logprobs(prompt.options.logprobs, answer.scores),
            "finish_reason": finish_reason(answer),
        }
        for number, (prompt, answer) in enumerate(zip(asked.prompts, answers, strict=True))
    ]
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.called.name,
        "choices": choices,
        "usage": asked.usage(answers),
    }


class _ChatChunks:
    """Chunks with the role of each answer, then its text, then its finish reason."""

    def __init__(self, body: ChatCompletion, asked: AnswerRequest) -> None:
        self._asked = asked
        self._has_usage = body.stream_options.include_usage
        self._same: Json = {
            "id": new_id("chatcmpl"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": asked.called.name,
        } | ({"usage": None} if self._has_usage else {})

    def begin(self) -> Sequence[Json]:
        """Return a chunk with the role for each answer."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(number, delta) for number in range(len(self._asked.prompts))]

    def of(self, event: StreamedPart) -> Sequence[Json]:
        """Return a chunk with the text, if there is any, and one with the finish reason after the last part."""
        scores = _logprobs(self._asked.prompts[event.number].options.logprobs, event.part.scores)
        chunks = []
        if event.part.text or event.part.scores:
            chunks.append(self._chunk(event.number, {"content": event.part.text}, logprobs=scores))
        if event.answer is not None:
            chunks.append(self._chunk(event.number, {}, finish=finish_reason(event.answer)))
        return chunks

    def end(self, usage: Json) -> Sequence[Json]:
        """Return a chunk with the usage, if the request has `stream_options.include_usage`."""
        return [self._same | {"choices": [], "usage": usage}] if self._has_usage else []

    def _chunk(self, number: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        return self._same | {
            "choices": [{"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        }


def _logprobs(likeliest: int | None, scores: Sequence[TokenScore]) -> Json | None:
    if likeliest is None:
        return None
    return {
        "content": [_scored(one) | {"top_logprobs": [*map(_scored, one.likeliest)]} for one in scores],
        "refusal": None,
    }


def _scored(score: TokenScore) -> dict[str, Any]:
    return {"token": score.text, "logprob": logprob(score), "bytes": [*score.bytes] if score.bytes else None}
