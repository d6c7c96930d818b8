"""A chat service on this machine that follows a script: the judge of tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.rigs.http_service import Answer, HttpService, Json, Request

Reply = tuple[int, Any]
"""A status, and a body: a text is a judge's own words, anything else the whole JSON document."""


def shown(body: Json) -> dict[str, str]:
    """Return the texts between a judge's marks: input, expected, and answer or A and B."""
    user = body["messages"][1]["content"]
    return dict(re.findall(r"<(\w+)-[0-9a-f]{12}>\n(.*?)\n</\1-[0-9a-f]{12}>", user, re.S))


def fair(body: Json) -> Reply:
    """Score 5 for the expected answer and 1 for any other; of two answers prefer the expected one, else a tie."""
    texts = shown(body)
    if "answer" in texts:
        return 200, json.dumps({"reason": "compared", "score": 5 if texts["answer"] == texts["expected"] else 1})
    right = [name for name in ("A", "B") if texts[name] == texts["expected"]]
    return 200, json.dumps({"reason": "compared", "better": right[0] if len(right) == 1 else "tie"})


class JudgeService(HttpService):
    """The server; a context manager.

    Args:
        script: how it judges; may be changed while it runs.
    """

    def __init__(self, script: Callable[[Json], Reply] = fair) -> None:
        self.script = script
        super().__init__()

    @property
    def base_url(self) -> str:
        """The `base_url` of a judge's config."""
        return f"{self.address}/v1"

    @property
    def bodies(self) -> list[Json]:
        """The bodies of all calls, in order."""
        return [request.body for request in self.requests]

    def answer(self, request: Request) -> Answer:
        """Judge by the script."""
        status, said = self.script(request.body)
        if not isinstance(said, str):
            return status, said, {}
        if status == 200:
            message = {"role": "assistant", "content": said}
            usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            return status, {"choices": choices, "usage": usage}, {}
        error = {"message": said, "type": "invalid_request_error", "param": None, "code": None}
        return status, {"error": error}, {}

    def key_of(self, headers: Mapping[str, str]) -> str:
        """The key of the header Authorization."""
        return headers.get("authorization", "").removeprefix("Bearer ")
