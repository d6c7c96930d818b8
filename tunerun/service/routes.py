"""What the routes of both wires share: the caller, lenient JSON bodies, and the names in them that are ignored.

A newer client may send newer fields, so unknown names are ignored. They are collected while pydantic reads the body,
and the wire reports them in a header of the response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive

from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.wires import Scope, Wire

MAX_IGNORED = 20
MAX_IGNORED_CHARACTERS = 40
"""The most ignored names that a response lists, and the most characters of each."""

Ignored = Annotated[Any, Field(description="Accepted and not used.")]

# A context variable, because FastAPI calls pydantic's validators without the request.
_ignored: ContextVar[list[str] | None] = ContextVar("ignored", default=None)


class WireRoute(APIRoute):
    """A route of one wire; it does not match another wire's requests at the same path."""

    wire: ClassVar[str]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is of this wire and of this route."""
        wire: Wire | None = scope["state"]["wire"]  # both wires have `/v1/models`
        return super().matches(scope) if wire is not None and wire.name == self.wire else (Match.NONE, {})


def caller_of(request: Request) -> Key:
    """Return the key with which the middleware has authenticated a request."""
    key: Key = request.state.key
    return key


Caller = Annotated[Key, Depends(caller_of)]


def caller_that_tunes(refusal: str, reason: str | None = None) -> Callable[[Request], Key]:
    """Return a dependency that is the caller's key, if it allows tuning.

    Args:
        refusal: the message for any other key, in the words of the wire.
        reason: as in `ServiceError`.
    """

    def caller(request: Request) -> Key:
        key = caller_of(request)
        if not key.may_tune:
            raise ServiceError(Code.PERMISSION_DENIED, refusal, reason=reason)
        return key

    return caller


class _JsonRequest(Request):
    def __init__(self, scope: Scope, receive: Receive, read_json: Callable[[bytes], Any]) -> None:
        super().__init__(scope, receive)
        self._read_json = read_json

    async def json(self) -> Any:
        """Return the body, parsed as its wire parses JSON."""
        return self._read_json(await self.body())


async def answer_json(
    handler: Callable[[Request], Awaitable[Response]], scope: Scope, receive: Receive, read_json: Callable[[bytes], Any]
) -> tuple[Response, list[str]]:
    """Answer a request with FastAPI's handler of a route, but parse its body with the wire's own parser.

    Args:
        handler: as returned by `APIRoute.get_route_handler`.
        scope, receive: the request.
        read_json: parses a body.

    Returns:
        The response, and the names in the body that were ignored.

    Raises:
        ServiceError: the body cannot be parsed, or the request is refused.
    """
    names: list[str] = []
    token = _ignored.set(names)
    try:
        return await handler(_JsonRequest(scope, receive, read_json)), names
    except HTTPException as error:
        if isinstance(error.__cause__, ServiceError):  # FastAPI wraps any error from reading a body
            raise error.__cause__ from None
        raise
    finally:
        _ignored.reset(token)


def note_ignored(prefix: str, names: Iterable[object], known: Container[object]) -> None:
    """Collect the unknown names of an object in a body; no effect outside of `answer_json`.

    Args:
        prefix: put before each name; tells the objects of a body apart.
        names: all names of the object.
        known: the names of its fields.
    """
    ignored = _ignored.get()
    if ignored is None:
        return
    for name in names:
        text = f"{prefix}{str(name)[:MAX_IGNORED_CHARACTERS]}"
        if name not in known and len(ignored) < MAX_IGNORED and text not in ignored:
            ignored.append(text)
