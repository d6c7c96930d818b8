"""Error responses, and streams that end with an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import pytest

from tunerun.generation import AnswerPart
from tunerun.service.core.problems import Code, Json, ServiceError
from tunerun.service.openai.answers import StreamedPart, event_lines
from tunerun.service.openai.problems import refusal, wrong


@pytest.mark.parametrize(
    ("code", "status", "kind", "word"),
    [
        (Code.INVALID_ARGUMENT, 400, "invalid_request_error", None),
        (Code.ALREADY_EXISTS, 400, "invalid_request_error", None),
        (Code.UNAUTHENTICATED, 401, "invalid_request_error", "invalid_api_key"),
        (Code.RESOURCE_EXHAUSTED, 429, "requests", "rate_limit_exceeded"),
        (Code.UNAVAILABLE, 503, "server_error", None),
    ],
)
def test_a_refusal_has_openais_status_type_and_code(code: Code, status: int, kind: str, word: str | None) -> None:
    """A conflict is not a 409, which the clients would retry; Retry-After says when to retry."""
    http_status, body, headers = refusal(ServiceError(code, "no", retry_after_s=7))
    assert (http_status, body["error"]) == (status, {"message": "no", "type": kind, "param": None, "code": word})
    assert headers["retry-after"] == "7"


def test_an_internal_error_is_not_retried_and_all_fields_are_named() -> None:
    """The request may have taken effect; the envelope can name one field only, so the message names all."""
    assert refusal(ServiceError(Code.INTERNAL, "its log has it"))[2]["x-should-retry"] == "false"
    _, body, _ = refusal(ServiceError(Code.INVALID_ARGUMENT, "a: x", fields={"a": "x", "b": "y"}))
    assert body["error"] == {"message": "a: x; b: y", "type": "invalid_request_error", "param": "a", "code": None}
    assert refusal(wrong("n", "is 0"))[1]["error"]["param"] == "n"


class Echo:
    """Chunks with the text of each part."""

    def begin(self) -> Sequence[Json]:
        return []

    def of(self, part: StreamedPart) -> Sequence[Json]:
        return [{"text": part.new.text}]

    def end(self, usage: Json) -> Sequence[Json]:
        return [usage]


def test_a_failing_stream_ends_with_the_error_and_is_closed() -> None:
    """The status has already been sent: the last line is the envelope, and `[DONE]` is missing."""
    is_closed = []

    async def events() -> AsyncGenerator[StreamedPart]:
        try:
            yield StreamedPart(0, AnswerPart("b"))
            raise ServiceError(Code.UNAVAILABLE, "the engine has ended")
        finally:
            is_closed.append(True)

    async def lines() -> list[str]:
        return [
            line async for line in event_lines(Echo(), lambda _answers: {}, StreamedPart(0, AnswerPart("a")), events())
        ]

    chunks = [json.loads(line.removeprefix("data: ")) for line in asyncio.run(lines())]
    assert chunks[:2] == [{"text": "a"}, {"text": "b"}]
    assert chunks[2]["error"]["message"] == "the engine has ended"
    assert len(chunks) == 3
    assert is_closed
