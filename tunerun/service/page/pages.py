"""The page "My library": rendered here, usable without JavaScript; scripts only keep it up to date.

Who is signed in is known by a cookie that holds a session's random id. A form of another site can neither send that
cookie (SameSite) nor pass for one of ours (Origin).
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tunerun.errors import DatasetError, LedgerError
from tunerun.service.core.called import Called
from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, Json, ServiceError, not_found, state_unavailable
from tunerun.service.core.records import FileRow
from tunerun.service.core.state import State
from tunerun.service.gemini import wire
from tunerun.service.gemini.api import Caller, Methods
from tunerun.service.gemini.tuning_request import (
    DEFAULT_EPOCHS,
    FEW_DEFAULTS,
    MANY_DEFAULTS,
    MANY_EXAMPLES,
    advice,
    read_new_model,
)
from tunerun.service.guard import COOKIE
from tunerun.service.page import forms
from tunerun.service.page.sessions import KEY_WRONG, SCOPE_MISSING, SESSION_ENDED, Sessions
from tunerun.service.page.shelf import Shelf, ShownModel
from tunerun.service.page.uploads import MAX_FILE_BYTES, Table, file_name, read_table

KEPT_FILES = 5

_FOLDER = Path(__file__).parent
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "referrer-policy": "same-origin",  # no-referrer would take the Origin from our own forms
    "cache-control": "no-store",
}


def routes(methods: Methods, state: State, sessions: Sessions) -> APIRouter:
    """The page and its forms."""
    shelf = Shelf(methods.library)

    def signed_in(request: Request) -> None:
        request.state.key = sessions.key(request.cookies.get(COOKIE, ""))

    router = APIRouter(include_in_schema=False)
    router.include_router(_door(sessions))
    inside = (_library(methods, shelf), _answers(methods, shelf), _files(methods, state, shelf))
    for routes_inside in inside:
        router.include_router(routes_inside, dependencies=[Depends(signed_in)])
    return router


class _StaticFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response


def static_files() -> StaticFiles:
    """What the page loads."""
    return _StaticFiles(directory=_FOLDER / "static")


# How every page is made

_TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)


class _Page(APIRoute):
    """A route that a browser asks: refusals are pages, and every answer has the headers that keep it safe."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                _check_origin(request)
                response = await answer(request)
            except ServiceError as error:
                response = _refused(request, error)
            except LedgerError as error:
                response = _refused(request, state_unavailable(error))
            except (RequestValidationError, HTTPException, ValidationError):
                words = "The form cannot be read. Go back, and send it again."
                response = _refused(request, ServiceError(Code.INVALID_ARGUMENT, words))
            response.headers.update(_HEADERS)
            return response

        return guarded


def _check_origin(request: Request) -> None:
    """Refuse a form of another site; programs send no Origin, and have no cookie."""
    origin = request.headers.get("origin")
    if request.method != "POST" or origin is None:
        return
    try:
        site = urlsplit(origin).netloc
    except ValueError:
        raise ServiceError(Code.INVALID_ARGUMENT, "The header Origin is malformed, and nothing was done.") from None
    if site != request.headers.get("host"):
        words = "This form was sent from another site, and nothing was done. Open the library, and do it there."
        raise ServiceError(Code.PERMISSION_DENIED, words)


def _refused(request: Request, error: ServiceError) -> Response:
    response = _refusal(request, error)
    if error.retry_after_s is not None:
        response.headers["retry-after"] = str(error.retry_after_s)
    return response


def _refusal(request: Request, error: ServiceError) -> Response:
    status = error.code.http_status
    if error.reason not in (SESSION_ENDED, SCOPE_MISSING, KEY_WRONG):
        return _page("refused.html", status, message=error.message, owner=_owner(request))
    is_first = error.reason == SESSION_ENDED and COOKIE not in request.cookies
    is_asking = request.method == "GET" and request.url.path == "/"
    return _page("sign_in.html", 200 if is_asking else status, problem=None if is_first else error.message)


def _owner(request: Request) -> str | None:
    key: Key | None = getattr(request.state, "key", None)
    return None if key is None else key.owner


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303)


# In and out


def _door(sessions: Sessions) -> APIRouter:
    router = APIRouter(route_class=_Page)

    @router.post("/sign-in")
    def sign_in(request: Request, key: Annotated[str, Form()] = "") -> Response:
        session = sessions.start(key.strip())
        sessions.end(request.cookies.get(COOKIE, ""))
        response = _to("/")
        response.set_cookie(
            COOKIE,
            session,
            max_age=int(sessions.life_s),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        response = _to("/")
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return router


# Tuned models


def _library(methods: Methods, shelf: Shelf) -> APIRouter:
    router = APIRouter(route_class=_Page)
    library = methods.library

    @router.get("/")
    def show_library(caller: Caller, before: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0) -> Response:
        return _library_page(shelf, caller, before)

    @router.get("/progress")
    def show_progress(caller: Caller) -> Response:
        return JSONResponse({shown.row.id: shown.as_json() for shown in shelf.creating(caller)})

    @router.get("/library/{identifier}")
    def show_model(identifier: str, caller: Caller) -> Response:
        return _model_page(caller, shelf.one(caller, identifier))

    @router.post("/library/{identifier}/cancel")
    def cancel(identifier: str, caller: Caller) -> Response:
        library.cancel(caller, identifier)
        return _to(f"/#model-{identifier}")

    @router.post("/library/{identifier}/delete")
    def delete(identifier: str, caller: Caller) -> Response:
        library.delete(caller, identifier)
        return _to("/")

    return router


def _library_page(
    shelf: Shelf, caller: Key, before: int = 0, status: int = 200, problems: tuple[str, ...] = ()
) -> Response:
    models, older = shelf.page(caller, before)
    shown = {"owner": caller.owner, "models": models, "before": before, "older": older}
    return _page("library.html", status, **shown, problems=problems, max_bytes=MAX_FILE_BYTES)


# The box to try one


@dataclass(frozen=True)
class _Answered:
    """What a model answered; `cut_after`: so many tokens, where it was cut; None: it ended by itself."""

    name: str
    text: str
    cut_after: int | None


@dataclass(frozen=True)
class _Tried:
    """A prompt, and what was answered.

    Attributes:
        cells: what was typed: one for each column of the model's template, or a text alone.
        problem: why there are no answers.
    """

    cells: tuple[str, ...]
    answers: tuple[_Answered, ...] = ()
    problem: str | None = None


def _model_page(caller: Key, shown: ShownModel, tried: _Tried | None = None, status: int = 200) -> Response:
    return _page("model.html", status, owner=caller.owner, shown=shown, tried=tried)


def _answers(methods: Methods, shelf: Shelf) -> APIRouter:
    router = APIRouter(route_class=_Page)

    @router.post("/library/{identifier}/try")
    async def try_model(
        identifier: str, caller: Caller, request: Request, text: Annotated[list[str] | None, Form()] = None
    ) -> Response:
        shown = await run_in_threadpool(shelf.one, caller, identifier)
        cells = tuple(cell.replace("\r\n", "\n") for cell in text or ())  # as forms send the line breaks of a text box
        try:
            tried = _Tried(cells, await _both(methods, caller, shown, _prompt_of(shown, cells), request))
        except ServiceError as error:
            return _model_page(caller, shown, _Tried(cells, problem=error.message), error.code.http_status)
        return _model_page(caller, shown, tried)

    return router


def _prompt_of(shown: ShownModel, cells: Sequence[str]) -> str:
    """What is sent for what was typed: a row for the model's template, or the text."""
    if not any(cells):
        raise ServiceError(Code.INVALID_ARGUMENT, "The prompt is empty; type one.")
    if len(cells) != max(1, len(shown.columns)):
        raise ServiceError(Code.INVALID_ARGUMENT, "The form cannot be read. Load the page again, and send it again.")
    return json.dumps(dict(zip(shown.columns, cells, strict=True)), ensure_ascii=False) if shown.columns else cells[0]


async def _both(methods: Methods, caller: Key, shown: ShownModel, text: str, request: Request) -> tuple[_Answered, ...]:
    """What the tuned model and its base model answer to the same prompt, as the API does."""
    tuned = await run_in_threadpool(methods.models.tuned, caller, shown.row.id)
    asked = wire.GenerateContent(contents=[wire.Content(role="user", parts=[wire.Part(text=text)])])
    base = methods.models.base(shown.row.base_model)
    limits = replace(base.defaults, max_output_tokens=tuned.defaults.max_output_tokens)
    called = (tuned, replace(base, defaults=limits, template=tuned.template))
    answers = await asyncio.gather(*(methods.generated(one, asked, request) for one in called))
    return tuple(_answered(one, answer) for one, answer in zip(called, answers, strict=True))


def _answered(called: Called, answer: Json) -> _Answered:
    candidate = answer["candidates"][0]
    is_cut = candidate["finishReason"] == "MAX_TOKENS"
    text = candidate["content"]["parts"][0]["text"]
    return _Answered(called.name, text, called.defaults.max_output_tokens if is_cut else None)


# Files, and jobs that start from them


Header = Literal["yes", "no"]
"""Whether the first line of a sent table names its columns."""


def _files(methods: Methods, state: State, shelf: Shelf) -> APIRouter:
    router = APIRouter(route_class=_Page)

    def table_of(caller: Key, identifier: str, *, has_header: bool) -> Table:
        file = state.file(identifier, caller.owner)
        if file is None:
            raise not_found(f"the file {identifier}, of which the newest {KEPT_FILES} are kept; send it again")
        try:
            return read_table(file.name, file.content, has_header=has_header)
        except DatasetError as error:
            raise ServiceError(Code.INVALID_ARGUMENT, "; ".join(error.problems)) from error

    def show(caller: Key, identifier: str, table: Table, typed: forms.TuningForm, **more: Any) -> Response:
        bases, sources = methods.library.catalogue.offered, shelf.sources(caller)
        values = {"owner": caller.owner, "identifier": identifier, "table": table, "form": typed}
        values["has_header"] = table.has_header
        chosen = {"bases": bases, "sources": sources, "defaults": _defaults(table), "labels": forms.LABELS}
        return _page("file.html", **{"problems": forms.Problems(), **values, **chosen, **more})

    @router.post("/files")
    def send_file(caller: Caller, file: UploadFile | None = None) -> Response:
        if file is None or not file.filename:
            return _library_page(shelf, caller, 0, 400, ("no file was chosen; choose one",))
        name, content = file_name(file.filename), file.file.read(MAX_FILE_BYTES + 1)
        try:
            read_table(name, content)
        except DatasetError as error:
            return _library_page(shelf, caller, 0, 400, error.problems)
        identifier = secrets.token_hex(8)
        state.add_file(FileRow(identifier, caller.owner, name, content))
        state.drop_files(caller.owner, keep=KEPT_FILES)
        return _to(f"/files/{identifier}")

    @router.get("/files/{identifier}")
    def show_file(identifier: str, caller: Caller, header: Header = "yes") -> Response:
        table = table_of(caller, identifier, has_header=header == "yes")
        text_input, output = table.likely()
        return show(caller, identifier, table, forms.TuningForm(input_column=text_input, output_column=output))

    @router.post("/files/{identifier}/tune")
    def tune(
        identifier: str, caller: Caller, typed: Annotated[forms.TuningForm, Form()], header: Header = "yes"
    ) -> Response:
        table = table_of(caller, identifier, has_header=header == "yes")
        typed = typed.of(table)
        try:
            new = read_new_model(typed.asked(table), typed.identifier.strip(), methods.library.catalogue)
            row = methods.library.create(caller, new)
        except ServiceError as error:
            problems = forms.problems_of(error, typed, table)
            return show(caller, identifier, table, typed, problems=problems, status=error.code.http_status)
        return _to(f"/#model-{row.id}")

    return router


def _defaults(table: Table) -> Mapping[str, object]:
    """What is taken for an empty field, and what is to be said of so few examples."""
    count = len(table.rows)
    batch, rate = FEW_DEFAULTS if count <= MANY_EXAMPLES else MANY_DEFAULTS
    return {"epoch_count": DEFAULT_EPOCHS, "batch_size": batch, "learning_rate": rate, "advice": advice(count)}
