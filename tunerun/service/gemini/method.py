"""What the methods of the API share: routes that parse bodies as Google does, callers, parameters, and warnings."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response

from tunerun.service.core.credentials import Key
from tunerun.service.gemini.dialect import GEMINI
from tunerun.service.gemini.json_body import read_json
from tunerun.service.routes import WireRoute, answer_json, caller_that_tunes

_SCOPE_MISSING = "Request had insufficient authentication scopes."  # Google's own words and reason

TuningCaller = Annotated[Key, Depends(caller_that_tunes(_SCOPE_MISSING, "ACCESS_TOKEN_SCOPE_INSUFFICIENT"))]
"""The caller, with a key that allows the methods of tuned models."""

Mask = Annotated[str, Query(alias="updateMask")]


class GeminiRoute(WireRoute):
    """A route whose body is parsed as Google parses it, and whose response has a warning that names ignored fields."""

    wire = GEMINI.name

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the route."""
        handler = super().get_route_handler()

        async def warning_of_ignored(request: Request) -> Response:
            response, ignored = await answer_json(handler, request.scope, request.receive, read_json)
            if ignored:
                warn(response, f"ignored, because this service does not know them: {', '.join(ignored)}")
            return response

        return warning_of_ignored


def warn(response: Response, text: str | None) -> None:
    """Add a warning to a response, as RFC 7234's header with code 299: persistent and miscellaneous.

    Args:
        response: the response.
        text: the warning; None: nothing is added.
    """
    if text is not None:
        # Names from a request may hold anything; a header takes printable ASCII, without what ends the quoted text.
        words = re.sub(r'[^ -~]|["\\]', "?", text)
        response.headers.append("warning", f'299 tunerun "{words}"')
