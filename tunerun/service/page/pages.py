"""The routes of the page "My library", which works without JavaScript; scripts only keep it up to date.

A visitor is recognised by a cookie with a session's random id. A form of another site can neither send that cookie
(SameSite) nor pass for one of ours (Origin).
"""

# The forms of jobs and prompts become requests of the Gemini wire. With the core alone, the page would need a third
# copy of what that wire adds to it: the guide's limits on examples and prompts, the defaults by the number of examples,
# the seed of an answer, and the messages for all of these.

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tunerun.errors import DatasetError
from tunerun.service.core.credentials import Key
from tunerun.service.core.problems import Code, ServiceError, not_found
from tunerun.service.core.records import FileRow, Role
from tunerun.service.core.state import State
from tunerun.service.core.stored_files import file_name
from tunerun.service.gemini import wire
from tunerun.service.gemini.api import Methods
from tunerun.service.gemini.tuning_request import (
    DEFAULT_EPOCHS,
    FEW_DEFAULTS,
    MANY_DEFAULTS,
    MANY_EXAMPLES,
    advice,
    read_change,
    read_new_model,
)
from tunerun.service.middleware import COOKIE
from tunerun.service.page import forms, prompt_forms
from tunerun.service.page.rendering import FOLDER, PageRoute, page, redirect
from tunerun.service.page.sessions import Sessions
from tunerun.service.page.training_rows import MOST_CHECKED, CheckedExamples, page_of
from tunerun.service.page.uploads import MAX_FILE_BYTES, Table, read_table
from tunerun.service.page.view_models import MAX_SOURCES, ViewModels
from tunerun.service.routes import Caller

KEPT_FILES = 5
"""Uploaded tables that are kept of each visitor, of up to 4 MB each; a sixth one replaces the oldest."""


def routes(methods: Methods, state: State, sessions: Sessions) -> APIRouter:
    """Return the routes of the page and its forms.

    Args:
        methods: the Gemini wire's methods that call a model.
        state: keeps the files that visitors send.
        sessions: who is signed in.
    """
    views = ViewModels(methods.library)

    def signed_in(request: Request) -> None:
        request.state.key = sessions.key(request.cookies.get(COOKIE, ""))

    router = APIRouter(include_in_schema=False)
    router.include_router(_session_routes(sessions))
    for routes_when_signed_in in (
        _model_routes(methods, views),
        _example_routes(methods, views),
        prompt_forms.routes(methods, views),
        _file_routes(methods, state, views),
    ):
        router.include_router(routes_when_signed_in, dependencies=[Depends(signed_in)])
    return router


class _StaticFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"  # kept, but revalidated: a new version shows at once
        return response


def static_files() -> StaticFiles:
    """Return the application that serves the styles and scripts of the page."""
    return _StaticFiles(directory=FOLDER / "static")


# Signing in and out


def _session_routes(sessions: Sessions) -> APIRouter:
    router = APIRouter(route_class=PageRoute)

    @router.post("/sign-in")
    def sign_in(request: Request, key: Annotated[str, Form()] = "") -> Response:
        session = sessions.start(key.strip())  # a new id each time: one that was planted in the browser gains nothing
        sessions.end(request.cookies.get(COOKIE, ""))
        response = redirect("/")
        response.set_cookie(
            COOKIE,
            session,
            max_age=int(sessions.life_s),
            path="/",
            secure=request.url.scheme == "https",  # of the proxy's X-Forwarded-Proto, if it is trusted
            httponly=True,
            samesite="strict",
        )
        return response

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        response = redirect("/")
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    return router


# Tuned models


def _model_routes(methods: Methods, views: ViewModels) -> APIRouter:
    router = APIRouter(route_class=PageRoute)
    library = methods.library

    @router.get("/")
    def show_library(caller: Caller, before: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0) -> Response:
        return _library_page(views, caller, before)

    @router.get("/progress")
    def show_progress(caller: Caller) -> Response:
        return JSONResponse({view.row.id: view.as_json() for view in views.creating(caller)})

    @router.get("/library/{identifier}")
    def show_model(identifier: str, caller: Caller, request: Request) -> Response:
        return prompt_forms.model_page(request, caller, views.one(caller, identifier))

    @router.post("/library/{identifier}/edit")
    def edit(
        identifier: str,
        caller: Caller,
        request: Request,
        display_name: Annotated[str, Form()] = "",
        description: Annotated[str, Form()] = "",
    ) -> Response:
        texts = {"display_name": display_name.strip(), "description": description.replace("\r\n", "\n").strip()}
        try:
            library.change(caller, identifier, read_change(wire.GeminiTunedModel(**texts), "displayName,description"))
        except ServiceError as error:
            if not error.fields:
                raise
            view, status = views.one(caller, identifier), error.code.http_status
            edited = {**texts, "problem": error.message}
            return prompt_forms.model_page(request, caller, view, status=status, edited=edited)
        return redirect(f"/library/{identifier}")

    @router.post("/library/{identifier}/cancel")
    def cancel(identifier: str, caller: Caller) -> Response:
        library.cancel(caller, identifier)
        return redirect(f"/#model-{identifier}")

    @router.post("/library/{identifier}/pause")
    def pause(identifier: str, caller: Caller) -> Response:
        library.pause(caller, identifier)
        return redirect(f"/#model-{identifier}")

    @router.post("/library/{identifier}/resume")
    def resume(identifier: str, caller: Caller) -> Response:
        library.resume(caller, identifier)
        return redirect(f"/#model-{identifier}")

    @router.post("/library/{identifier}/delete")
    def delete(identifier: str, caller: Caller) -> Response:
        library.delete(caller, identifier)
        return redirect("/")

    return router


def _example_routes(methods: Methods, views: ViewModels) -> APIRouter:
    router = APIRouter(route_class=PageRoute)
    checked = CheckedExamples()

    @router.get("/library/{identifier}/examples")
    def show_examples(
        identifier: str, caller: Caller, number: Annotated[int, Query(alias="page", ge=1, le=2**31)] = 1
    ) -> Response:
        # A reader may call a model, but not see its training examples.
        row = methods.library.get(caller, identifier, Role.WRITER)
        examples = methods.library.examples(row)
        findings = checked.findings(row.key, examples)
        return page(
            "examples.html",
            owner=caller.owner,
            view=views.one(caller, identifier),
            examples=page_of(examples, number),
            findings=findings,
            most_checked=MOST_CHECKED,
        )

    return router


def _library_page(
    views: ViewModels, caller: Key, before: int = 0, status: int = 200, problems: tuple[str, ...] = ()
) -> Response:
    models, older = views.page(caller, before)
    values = {"owner": caller.owner, "models": models, "before": before, "older": older}
    return page("library.html", status, **values, problems=problems, max_bytes=MAX_FILE_BYTES)


# Files, and jobs that start from them


Header = Literal["yes", "no"]
"""Whether the first line of an uploaded CSV or TSV names its columns."""


def _file_routes(methods: Methods, state: State, views: ViewModels) -> APIRouter:
    router = APIRouter(route_class=PageRoute)

    def table_of(caller: Key, identifier: str, *, has_header: bool) -> Table:
        file = state.file(identifier, caller.owner)
        if file is None:
            raise not_found(f"the file {identifier}, of which the newest {KEPT_FILES} are kept; send it again")
        try:
            return read_table(file.name, file.content, has_header=has_header)
        except DatasetError as error:
            raise ServiceError(Code.INVALID_ARGUMENT, "; ".join(error.problems)) from error

    @router.post("/files")
    def send_file(caller: Caller, file: UploadFile | None = None) -> Response:
        if file is None or not file.filename:
            return _library_page(views, caller, 0, 400, ("no file was chosen; choose one",))
        # One byte more than the limit is enough to refuse the file.
        name, content = file_name(file.filename), file.file.read(MAX_FILE_BYTES + 1)
        try:
            read_table(name, content)
        except DatasetError as error:
            return _library_page(views, caller, 0, 400, error.problems)
        identifier = secrets.token_hex(8)
        state.add_file(FileRow(identifier, caller.owner, name, content), KEPT_FILES)
        return redirect(f"/files/{identifier}")

    @router.get("/files/{identifier}")
    def show_file(identifier: str, caller: Caller, header: Header = "yes") -> Response:
        table = table_of(caller, identifier, has_header=header == "yes")
        text_input, output = table.likely()
        return _file_page(
            methods, caller, identifier, table, forms.TuningForm(input_column=text_input, output_column=output)
        )

    @router.post("/files/{identifier}/tune")
    def tune(
        identifier: str, caller: Caller, form: Annotated[forms.TuningForm, Form()], header: Header = "yes"
    ) -> Response:
        table = table_of(caller, identifier, has_header=header == "yes")
        form = form.with_columns_of(table)
        try:
            new = read_new_model(form.request(table), form.identifier.strip(), methods.library.catalogue)
            row = methods.library.create(caller, new)
        except ServiceError as error:
            problems = forms.problems_of(error, form, table)
            return _file_page(methods, caller, identifier, table, form, problems, error.code.http_status)
        return redirect(f"/#model-{row.id}")

    return router


def _file_page(
    methods: Methods,
    caller: Key,
    identifier: str,
    table: Table,
    form: forms.TuningForm,
    problems: forms.Problems | None = None,
    status: int = 200,
) -> Response:
    count = len(table.rows)
    batch, rate = FEW_DEFAULTS if count <= MANY_EXAMPLES else MANY_DEFAULTS
    defaults = {"epoch_count": DEFAULT_EPOCHS, "batch_size": batch, "learning_rate": rate, "advice": advice(count)}
    return page(
        "file.html",
        status,
        owner=caller.owner,
        identifier=identifier,
        table=table,
        has_header=table.has_header,
        form=form,
        labels=forms.LABELS,
        bases=methods.library.catalogue.offered,
        sources=methods.library.own_sources(caller, MAX_SOURCES),
        defaults=defaults,
        problems=problems or forms.Problems(),
    )
