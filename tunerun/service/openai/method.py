"""What the operations of the wire share: their bodies, their callers, and the pages of their lists.

Bodies are parsed leniently. Unknown fields, which newer clients may send, are ignored and listed in the header
`x-tunerun-ignored`. null counts as absent, because hand-written clients and LlamaIndex send it. An empty body is an
empty object, since OpenAI's clients send none where there are no fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, model_validator

from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Json
from tunerun.service.json_errors import refusing_bad_json, unique
from tunerun.service.openai.problems import OpenAiError, wrong
from tunerun.service.routes import WireRoute, answer_json, caller_that_tunes, note_ignored

IGNORED_HEADER = "x-tunerun-ignored"

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
"""JSON escapes can encode an unpaired surrogate, which cannot be stored or sent as UTF-8."""


class LenientObject(BaseModel):
    """An object in a request: null counts as absent, and unknown names are collected."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, protected_namespaces=()
    )
    _prefix: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        """Remove nulls, and collect unknown names."""
        if not isinstance(value, dict):
            return value
        note_ignored(cls._prefix, value, {field.alias or name for name, field in cls.model_fields.items()})
        return {name: item for name, item in value.items() if item is not None}


def read_json(content: bytes) -> Any:
    """Parse a body; an empty one is an empty object.

    Raises:
        ServiceError: the body is not JSON in UTF-8, is nested too deeply, or repeats a name within an object.
    """
    if not content.strip():
        return {}

    def refuse(name: str) -> None:  # NaN, Infinity and -Infinity, which Python's parser takes
        raise ValueError(f"{name} is not a number in JSON")

    with refusing_bad_json():
        text = content.decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        if _SURROGATE_ESCAPE.search(text):
            # An unpaired surrogate would be a server error later, where the text is looked up or stored.
            json.dumps(value, ensure_ascii=False).encode()
        return value


class UploadRoute(WireRoute):
    """An operation that reads its body itself, as it arrives."""

    wire = "openai"


class JsonRoute(WireRoute):
    """An operation with a JSON body or none, whatever the content type; `UploadRoute` is for multipart forms."""

    wire = "openai"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the operation."""
        handler = super().get_route_handler()

        async def lenient(request: Request) -> Response:
            # FastAPI parses a body as JSON only if its content type says so, which curl's default does not.
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            response, ignored = await answer_json(handler, scope, request.receive, read_json)
            if ignored:  # a header holds printable ASCII only, and names may contain line breaks
                response.headers[IGNORED_HEADER] = re.sub(r"[^ -~]", "?", ", ".join(ignored))
            return response

        return lenient


_SCOPE_MISSING = "this key has no access to files and fine-tuning; the operator can add a key with the scope tuning"

TuningCaller = Annotated[Key, Depends(caller_that_tunes(_SCOPE_MISSING))]
"""The caller, with a key that allows files and fine-tuning."""

MAX_PAGE = 10_000
"""The most items of a page; a greater `limit` is reduced to it."""

Limit = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
After = Annotated[str, Query(max_length=200)]


def size_of(limit: int | None, default: int) -> int:
    """Return the size of a page.

    Args:
        limit: of the request; None: it has none.
        default: the size without a limit.
    """
    return min(limit or default, MAX_PAGE)


def page(items: Sequence[Json], size: int) -> Json:
    """Return a page of a list as the wire's JSON.

    Args:
        items: the items of the page, plus one more if there is a next page.
        size: the size of the page.
    """
    # Without `has_more` the SDKs request the next page until one is empty.
    return {"object": "list", "data": list(items[:size]), "has_more": len(items) > size}


def not_of_list(after: str) -> OpenAiError:
    """Return the error for a cursor that is not the id of an item of the list."""
    return wrong("after", f"{after[:60]!r} is not an id in this list; send the id of the previous page's last item")
