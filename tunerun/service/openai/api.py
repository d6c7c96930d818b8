"""The operations of the wire, under the paths that OpenAI's and Azure's clients use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel

from tunerun.service.core.problems import Code
from tunerun.service.openai.method import JsonRoute
from tunerun.service.openai.problems import WITHOUT_VERSION, no_such_path
from tunerun.service.openai.wire import OPENAI, PREFIXES

_SECURITY = [Depends(HTTPBearer(auto_error=False)), Depends(APIKeyHeader(name="api-key", auto_error=False))]

_EVERY = ["GET", "POST", "PUT", "PATCH", "DELETE"]

_NOT_HERE = {
    "responses": "this service has no Responses API; use POST /v1/chat/completions, which the libraries call "
    "chat.completions (in Vercel's AI SDK: openai.chat(NAME))",
    "embeddings": "this service does not offer embeddings",
    "uploads": "uploads in parts are not supported; send the whole file, up to 512 MB, with POST /v1/files, which "
    "the libraries call files.create",
}
"""Operations of OpenAI's clients that do not exist here, with advice on what to use instead."""

# Answered with advice, because it is the commonest mistake: the SDKs append the path to whatever base URL they have.
_UNPREFIXED = (
    *("/chat/completions", "/completions", "/models", "/models/{rest:path}", "/responses"),
    *("/fine_tuning/{rest:path}", "/uploads", "/uploads/{rest:path}"),
)
"""Paths of clients whose base URL lacks `/v1`."""


class ErrorObject(BaseModel):
    """The error of a refused request."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAiErrorEnvelope(BaseModel):
    """The body of every error response."""

    error: ErrorObject


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAiErrorEnvelope, "description": "refused"}
    # A cancelled request has no client that could read the status, and this wire sends 409 as 400 (see `problems`).
    for status in sorted({code.http_status for code in Code} - {Code.CANCELLED.http_status, 409})
}


def routes(operations: Sequence[APIRouter], deployed: Sequence[APIRouter] = ()) -> APIRouter:
    """Return all operations under OpenAI's and Azure's prefixes, and errors with advice at unsupported paths.

    Args:
        operations: routers whose paths are relative to `/v1`, such as `/chat/completions`.
        deployed: routers that Azure's clients also call below a deployment; the body's `model` names it as well.
    """
    router = APIRouter(dependencies=_SECURITY, responses=_ERRORS, tags=[OPENAI.name])
    for prefix in PREFIXES:
        for routes_below in operations:
            # The OpenAPI document has each operation once: it requires unique operation ids.
            router.include_router(routes_below, prefix=prefix, include_in_schema=prefix == PREFIXES[0])
    for routes_below in deployed:
        router.include_router(routes_below, prefix="/openai/deployments/{deployment}", include_in_schema=False)

    paths = {f"/v1/{name}{rest}": advice for name, advice in _NOT_HERE.items() for rest in ("", "/{rest:path}")}
    absent = APIRouter(route_class=JsonRoute)
    for path, advice in (paths | dict.fromkeys(_UNPREFIXED, WITHOUT_VERSION)).items():
        _refuse(absent, path, advice)
    router.include_router(absent, include_in_schema=False)
    return router


def _refuse(router: APIRouter, path: str, advice: str) -> None:
    @router.api_route(path, methods=_EVERY)
    def absent(request: Request) -> None:
        raise no_such_path(request.method, request.url.path, advice)
