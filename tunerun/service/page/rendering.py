"""Renders every page, errors included, from a template, with security headers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from tunerun.errors import LedgerError
from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, ServiceError, state_unavailable
from tunerun.service.middleware import COOKIE
from tunerun.service.page.sessions import KEY_WRONG, SCOPE_MISSING, SESSION_ENDED

FOLDER = Path(__file__).parent
_HEADERS = {
    # No inline scripts and no other origins: a name or a row that escaped the templates' escaping could still not run.
    # frame-ancestors: the page in a frame of another site would be open to clickjacking.
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "referrer-policy": "same-origin",  # no-referrer would take the Origin from our own forms
    "cache-control": "no-store",  # after signing out, the back button must not show the library
}

_TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,  # jinja2's default is off; names, rows and answers are anyone's text
    undefined=StrictUndefined,  # jinja2's default shows nothing for a name that a route forgot or misspelled
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template as a response.

    Args:
        template: the name of its file.
        status: the HTTP status.
        values: its variables; a missing one is an error.
    """
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)


def redirect(path: str) -> RedirectResponse:
    """Redirect after a form was processed, so that reloading the page does not send the form again."""
    return RedirectResponse(path, status_code=303)


class PageRoute(APIRoute):
    """A route for browsers: errors are pages, and every response has security headers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler of a route."""
        handler = super().get_route_handler()

        async def rendering_errors(request: Request) -> Response:
            try:
                _check_origin(request)
                response = await handler(request)
            except ServiceError as error:
                response = _error_page(request, error)
            except LedgerError as error:
                response = _error_page(request, state_unavailable(error))
            except (RequestValidationError, HTTPException, ValidationError):
                words = "The form cannot be read. Go back, and send it again."
                response = _error_page(request, ServiceError(Code.INVALID_ARGUMENT, words))
            response.headers.update(_HEADERS)
            return response

        return rendering_errors


def _check_origin(request: Request) -> None:
    """Refuse a form of another site; programs do not send Origin, and have no cookie."""
    origin = request.headers.get("origin")
    if request.method != "POST" or origin is None:
        return
    try:
        site = urlsplit(origin).netloc  # empty for `null`, which a sandboxed frame sends: refused as well
    except ValueError:
        raise ServiceError(Code.INVALID_ARGUMENT, "The header Origin is malformed, and nothing was done.") from None
    if site != request.headers.get("host"):
        words = "This form was sent from another site, and nothing was done. Open the library, and do it there."
        raise ServiceError(Code.PERMISSION_DENIED, words)


def _error_page(request: Request, error: ServiceError) -> Response:
    """Return the page of an error: the form to sign in if the visitor is not signed in."""
    status = error.code.http_status
    if error.reason in (SESSION_ENDED, SCOPE_MISSING, KEY_WRONG):
        # The start page is where one signs in. A visitor without a cookie was never signed in, so no problem is shown.
        is_start = request.method == "GET" and request.url.path == "/"
        is_first_visit = error.reason == SESSION_ENDED and COOKIE not in request.cookies
        problem = None if is_first_visit else error.message
        response = page("sign_in.html", 200 if is_start else status, problem=problem)
    else:
        key: Key | None = getattr(request.state, "key", None)
        response = page("refused.html", status, message=error.message, owner=key and key.owner)
    if error.retry_after_s is not None:
        response.headers["retry-after"] = str(error.retry_after_s)
    return response
