"""Routes of the API: bodies are parsed as Google parses them, and responses may carry warnings."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from tunerun.service.core.problems import ServiceError
from tunerun.service.gemini import wire
from tunerun.service.gemini.dialect import GEMINI
from tunerun.service.gemini.json_body import read_json
from tunerun.service.wires import WireRoute


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body, as `read_json` reads it."""
        return read_json(await self.body())


class Method(WireRoute):
    """A method of the API: its body is parsed as Google parses it, and ignored fields are named in the response."""

    wire = GEMINI.name

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the method."""
        answer = super().get_route_handler()

        async def named(request: Request) -> Response:
            with wire.noting_ignored() as ignored:
                try:
                    response = await answer(_JsonRequest(request.scope, request.receive))
                except HTTPException as error:
                    if isinstance(error.__cause__, ServiceError):  # FastAPI makes one of whatever a body raises
                        raise error.__cause__ from None
                    raise
            if ignored:
                warn(response, f"ignored, because this service does not know them: {', '.join(ignored)}")
            return response

        return named


def warn(response: Response, text: str | None) -> None:
    """Add a warning in RFC 7234's header; code 299 is a persistent, miscellaneous warning."""
    if text is not None:
        # Names from a request may hold anything; a header takes printable ASCII, without what ends the quoted text.
        words = re.sub(r'[^ -~]|["\\]', "?", text)
        response.headers.append("warning", f'299 tunerun "{words}"')
