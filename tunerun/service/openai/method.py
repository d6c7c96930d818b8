"""Routes of the wire: bodies are parsed leniently, and ignored fields are reported.

Unknown fields, which newer clients may send, are ignored and listed in the header `x-tunerun-ignored`. null counts as
absent, because hand-written clients and LlamaIndex send it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, model_validator

from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.openai.json_body import read_json
from tunerun.service.routes import WireRoute, answer_json, caller_of, note_ignored

IGNORED_HEADER = "x-tunerun-ignored"


class LenientObject(BaseModel):
    """An object in a request: null counts as absent, and unknown names are collected."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, protected_namespaces=()
    )
    _prefix: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        """Remove nulls, and collect unknown names."""
        if not isinstance(value, dict):
            return value
        note_ignored(cls._prefix, value, {field.alias or name for name, field in cls.model_fields.items()})
        return {name: one for name, one in value.items() if one is not None}


class UploadRoute(WireRoute):
    """An operation that reads its body itself, as it arrives."""

    wire = "openai"


class Operation(WireRoute):
    """An operation with a JSON body or none; the content type is not checked.

    A route for a multipart form declares `route_class=UploadRoute` instead.
    """

    wire = "openai"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the operation."""
        handler = super().get_route_handler()

        async def lenient(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            response, ignored = await answer_json(handler, scope, request.receive, read_json)
            if ignored:
                response.headers[IGNORED_HEADER] = re.sub(r"[^ -~]", "?", ", ".join(ignored))
            return response

        return lenient


def _tuning_caller(request: Request) -> Key:
    key = caller_of(request)
    if not key.may_tune:
        words = "this key has no access to files and fine-tuning; the operator can add a key with the scope tuning"
        raise ServiceError(Code.PERMISSION_DENIED, words)
    return key


TuningCaller = Annotated[Key, Depends(_tuning_caller)]
"""The caller, with a key that allows files and fine-tuning."""
