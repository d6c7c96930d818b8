"""Routes of the wire: bodies are parsed leniently, and ignored fields are reported.

Unknown fields, which newer clients may send, are ignored and listed in the header `x-tunerun-ignored`. null counts as
absent, because hand-written clients and LlamaIndex send it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.openai.json_body import read_json
from tunerun.service.wires import WireRoute

IGNORED_HEADER = "x-tunerun-ignored"
MAX_IGNORED = 20
MAX_IGNORED_CHARACTERS = 40
"""The most ignored names that a response lists, and the most characters of each."""

Ignored = Annotated[Any, Field(description="Accepted and not used.")]

_ignored: ContextVar[list[str] | None] = ContextVar("ignored", default=None)


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
        names = _ignored.get()
        if names is not None:
            known = {field.alias or name for name, field in cls.model_fields.items()}
            for name in value:
                text = f"{cls._prefix}{str(name)[:MAX_IGNORED_CHARACTERS]}"
                if name not in known and len(names) < MAX_IGNORED and text not in names:
                    names.append(text)
        return {name: one for name, one in value.items() if one is not None}


@contextmanager
def _noting_ignored() -> Iterator[list[str]]:
    names: list[str] = []
    token = _ignored.set(names)
    try:
        yield names
    finally:
        _ignored.reset(token)


class _JsonRequest(Request):
    async def json(self) -> Any:
        """Return the body, parsed by `read_json`."""
        return read_json(await self.body())


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
        answer = super().get_route_handler()

        async def lenient(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            with _noting_ignored() as ignored:
                try:
                    response = await answer(_JsonRequest(scope, request.receive))
                except HTTPException as error:
                    if isinstance(error.__cause__, ServiceError):  # FastAPI wraps any error from reading a body
                        raise error.__cause__ from None
                    raise
            if ignored:
                response.headers[IGNORED_HEADER] = re.sub(r"[^ -~]", "?", ", ".join(ignored))
            return response

        return lenient


def _caller(request: Request) -> Key:
    key: Key = request.state.key
    return key


def _tuning_caller(request: Request) -> Key:
    key = _caller(request)
    if not key.may_tune:
        words = "this key has no access to files and fine-tuning; the operator can add a key with the scope tuning"
        raise ServiceError(Code.PERMISSION_DENIED, words)
    return key


Caller = Annotated[Key, Depends(_caller)]
"""The caller."""

TuningCaller = Annotated[Key, Depends(_tuning_caller)]
"""The caller, with a key that allows files and fine-tuning."""
