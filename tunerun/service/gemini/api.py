"""The methods of the API, under the paths that its clients use.

All are under `/v1beta` and `/v1`: Google has the tuning methods under v1beta alone, but google-genai asks v1 for
them, and cancels by `tunedModels/{id}:cancel`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPBearer
from pydantic import BaseModel

from tunerun.errors import NoTurnsError
from tunerun.job import Answer, AnswerPart, Prompt
from tunerun.service.core.credentials import Key
from tunerun.service.core.library import Library
from tunerun.service.core.model_calls import ServedModel, ServedModels
from tunerun.service.core.problems import Code, Json, ServiceError, invalid
from tunerun.service.core.records import TunedModelRow
from tunerun.service.gemini import wire
from tunerun.service.gemini.dialect import VERSIONS, envelope
from tunerun.service.gemini.grants import check_mask, read_grantee, read_role
from tunerun.service.gemini.lists import page_size_of, position, read_page
from tunerun.service.gemini.method import Method, warn
from tunerun.service.gemini.prompts import beyond_the_guide, read_conversation, read_prompt
from tunerun.service.gemini.tuning_request import advice, read_change, read_new_model

_SECURITY = [
    Depends(APIKeyHeader(name="x-goog-api-key", auto_error=False)),
    Depends(APIKeyQuery(name="key", auto_error=False)),
    Depends(HTTPBearer(auto_error=False)),
]


class Status(BaseModel):
    """google.rpc.Status, as a Google API answers it."""

    code: int
    message: str
    status: str
    details: list[dict[str, Any]] = []


class ErrorEnvelope(BaseModel):
    """The body of every answer that is not a success."""

    error: Status


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": "; ".join(code.name for code in Code if code.http_status == status)}
    for status in sorted({code.http_status for code in Code} - {Code.CANCELLED.http_status})
}


def _caller(request: Request) -> Key:
    key: Key = request.state.key
    return key


def _tuning_caller(request: Request) -> Key:
    key = _caller(request)
    if not key.may_tune:
        raise ServiceError(
            Code.PERMISSION_DENIED,
            "Request had insufficient authentication scopes.",
            reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        )
    return key


Caller = Annotated[Key, Depends(_caller)]
TuningCaller = Annotated[Key, Depends(_tuning_caller)]


class Methods:
    """The methods that call a model."""

    def __init__(self, models: ServedModels) -> None:
        self.models = models
        self.library = models.library

    async def answer(self, called: ServedModel, asked: wire.GenerateContent, request: Request) -> JSONResponse:
        """Answer a prompt with one candidate."""
        prompt = await _prompt(called, asked)
        response = JSONResponse(await self._answered(called, prompt, request))
        warn(response, called.warning)
        warn(response, beyond_the_guide(asked, called.adapter))
        return response

    async def generated(self, called: ServedModel, asked: wire.GenerateContent, request: Request) -> Json:
        """Answer a prompt with the API's JSON; a prompt whose client has disconnected is cancelled."""
        return await self._answered(called, await _prompt(called, asked), request)

    async def _answered(self, called: ServedModel, prompt: Prompt, request: Request) -> Json:
        asked_for = self.models.ask(called, [prompt])
        (answer,) = await self.models.answered(called, asked_for, request.is_disconnected, "contents")
        return _whole(called, prompt, answer)

    async def stream(self, called: ServedModel, asked: wire.GenerateContent, *, as_events: bool) -> StreamingResponse:
        """Stream the answer to a prompt, as server-sent events or as one JSON array."""
        prompt = await _prompt(called, asked)
        parts = self._parts(called, prompt)
        first = await anext(parts)  # an error before the first part becomes an error response with its own status
        written = _events(first, parts) if as_events else _array(first, parts)
        kind = "text/event-stream" if as_events else "application/json"
        response = StreamingResponse(written, media_type=kind)
        warn(response, called.warning)
        warn(response, beyond_the_guide(asked, called.adapter))
        return response

    async def _parts(self, called: ServedModel, prompt: Prompt) -> AsyncIterator[Json]:
        """The parts of an answer as they arrive."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[AnswerPart | None] = asyncio.Queue()

        def tell(_position: int, part: AnswerPart | None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, part)

        (answer,) = self.models.ask(called, [prompt], tell)
        answer.add_done_callback(lambda _: tell(0, None))
        sent = 0
        try:
            while (part := await arrived.get()) is not None:
                sent += len(part.text)
                yield wire.generated(part.text, called.name)
            yield _whole(called, prompt, await self.models.awaited(answer, called, "contents"), after=sent)
        finally:
            self.models.leave(called, answer)  # an incomplete answer: its client disconnected


async def _prompt(called: ServedModel, asked: wire.GenerateContent) -> Prompt:
    """Read the prompt of a request, in a thread, since a template may take up to a second."""

    def ready() -> Prompt:
        prompt = read_prompt(asked, called.defaults, called.adapter, called.template)
        return called.prepared(prompt, "systemInstruction")

    return await run_in_threadpool(ready)


def _whole(called: ServedModel, prompt: Prompt, answer: Answer, after: int = 0) -> Json:
    finish = "MAX_TOKENS" if answer.is_cut else "STOP"
    tokens = called.offered.counter.count_input(prompt.asked), answer.tokens
    return wire.generated(answer.text[after:], called.name, finish=finish, finish_message=called.warning, tokens=tokens)


async def _events(first: Json, parts: AsyncIterator[Json]) -> AsyncIterator[str]:
    yield f"data: {json.dumps(first)}\r\n\r\n"
    async for part in _to_the_end(parts):
        yield f"data: {json.dumps(part)}\r\n\r\n"


async def _to_the_end(parts: AsyncIterator[Json]) -> AsyncIterator[Json]:
    """The parts; an error becomes the last part, since the status of the response has been sent."""
    try:
        async for part in parts:
            yield part
    except ServiceError as error:
        yield envelope(error)


async def _array(first: Json, parts: AsyncIterator[Json]) -> AsyncIterator[str]:
    yield f"[{json.dumps(first)}"
    async for part in _to_the_end(parts):
        yield f",\r\n{json.dumps(part)}"
    yield "]"


def routes(methods: Methods) -> APIRouter:
    """The routes of all methods, under both versions."""
    router = APIRouter(dependencies=_SECURITY, responses=_ERRORS, default_response_class=JSONResponse)
    for version in VERSIONS:
        router.include_router(_models(methods), prefix=f"/{version}", tags=["models"])
        router.include_router(_tuned_models(methods.library), prefix=f"/{version}", tags=["tunedModels"])
        router.include_router(_called_tuned_models(methods), prefix=f"/{version}", tags=["tunedModels"])
        router.include_router(_operations(methods.library), prefix=f"/{version}", tags=["operations"])
        router.include_router(_permissions(methods.library), prefix=f"/{version}", tags=["permissions"])
    return router


PageSize = Annotated[int, Query(alias="pageSize", ge=-(2**31), le=wire.MAX_INT32)]
PageToken = Annotated[str, Query(alias="pageToken")]
Mask = Annotated[str, Query(alias="updateMask")]
Alt = Annotated[str, Query()]


def _models(methods: Methods) -> APIRouter:
    router = APIRouter(route_class=Method)
    catalogue = methods.library.catalogue

    @router.get("/models")
    def list_models(_caller: Caller, page_size: PageSize = 0, page_token: PageToken = "") -> Json:
        if page_token:
            raise invalid("pageToken", "is not a token of this list, which has one page")
        page_size_of(page_size)
        return {"models": [wire.model(offered) for offered in catalogue.offered.values()]}

    @router.get("/models/{model}")
    def get_model(model: str, _caller: Caller) -> Json:
        return wire.model(methods.models.base(model).offered)

    @router.post("/models/{model}:generateContent")
    async def generate_content(
        model: str, body: wire.GenerateContent, _caller: Caller, request: Request
    ) -> JSONResponse:
        return await methods.answer(methods.models.base(model), body, request)

    @router.post("/models/{model}:streamGenerateContent")
    async def stream_generate_content(
        model: str, body: wire.GenerateContent, _caller: Caller, alt: Alt = "json"
    ) -> StreamingResponse:
        return await methods.stream(methods.models.base(model), body, as_events=alt == "sse")

    @router.post("/models/{model}:countTokens")
    def count_tokens(model: str, body: wire.CountTokens, _caller: Caller) -> Json:
        counter = methods.models.base(model).offered.counter
        if (body.contents is None) == (body.generate_content_request is None):
            raise invalid("contents", "set either contents or generateContentRequest")
        asked = body.generate_content_request
        contents = body.contents if asked is None else asked.contents
        conversation = read_conversation(contents, None if asked is None else asked.system_instruction)
        try:
            return wire.message(total_tokens=counter.count_input(conversation))
        except NoTurnsError as error:
            raise invalid("contents", str(error)) from error

    return router


def _tuned_models(library: Library) -> APIRouter:
    router = APIRouter(route_class=Method)

    def shown(row: TunedModelRow) -> Json:
        return wire.tuned_model(row, library.curve(row))

    @router.post("/tunedModels")
    def create_tuned_model(
        body: wire.TunedModel,
        caller: TuningCaller,
        tuned_model_id: Annotated[str, Query(alias="tunedModelId")] = "",
    ) -> JSONResponse:
        new = read_new_model(body, tuned_model_id, library.catalogue)
        row = library.create(caller, new)
        few = advice(len(new.training))
        response = JSONResponse(wire.operation(row, library.curve(row)))
        warn(response, few)
        return response

    @router.get("/tunedModels")
    def list_tuned_models(
        caller: TuningCaller,
        page_size: PageSize = 0,
        page_token: PageToken = "",
        filter: str = "",  # noqa: A002 - the API's name
    ) -> Json:
        page = read_page(library, caller, page_size, page_token, filter)
        curves = library.curves(page.models)
        models = [wire.tuned_model(row, curves[row.key]) for row in page.models]
        return wire.message(tuned_models=models, next_page_token=page.next_token)

    @router.get("/tunedModels/{tuned_model}")
    def get_tuned_model(tuned_model: str, caller: TuningCaller) -> Json:
        return shown(library.get(caller, tuned_model))

    @router.patch("/tunedModels/{tuned_model}")
    def patch_tuned_model(
        tuned_model: str, body: wire.TunedModel, caller: TuningCaller, update_mask: Mask = ""
    ) -> Json:
        return shown(library.change(caller, tuned_model, read_change(body, update_mask)))

    @router.delete("/tunedModels/{tuned_model}")
    def delete_tuned_model(tuned_model: str, caller: TuningCaller) -> Json:
        library.delete(caller, tuned_model)
        return {}

    @router.post("/tunedModels/{tuned_model}:transferOwnership")
    def transfer_ownership(tuned_model: str, body: wire.TransferOwnership, caller: TuningCaller) -> Json:
        library.transfer(caller, tuned_model, body.email_address)
        return {}

    return router


def _called_tuned_models(methods: Methods) -> APIRouter:
    router = APIRouter(route_class=Method)

    # LiteLLM asks `gemini/tunedModels/x` below /models.
    @router.post("/models/tunedModels/{tuned_model}:generateContent", include_in_schema=False)
    @router.post("/tunedModels/{tuned_model}:generateContent")
    async def generate_tuned_content(
        tuned_model: str, body: wire.GenerateContent, caller: Caller, request: Request
    ) -> JSONResponse:
        return await methods.answer(await run_in_threadpool(methods.models.tuned, caller, tuned_model), body, request)

    @router.post("/models/tunedModels/{tuned_model}:streamGenerateContent", include_in_schema=False)
    @router.post("/tunedModels/{tuned_model}:streamGenerateContent")
    async def stream_generate_tuned_content(
        tuned_model: str, body: wire.GenerateContent, caller: Caller, alt: Alt = "json"
    ) -> StreamingResponse:
        called = await run_in_threadpool(methods.models.tuned, caller, tuned_model)
        return await methods.stream(called, body, as_events=alt == "sse")

    return router


def _operations(library: Library) -> APIRouter:
    router = APIRouter(route_class=Method)

    @router.get("/tunedModels/{tuned_model}/operations")
    def list_operations(tuned_model: str, caller: TuningCaller) -> Json:
        row = library.get(caller, tuned_model)
        return {"operations": [wire.operation(row, library.curve(row))]}

    @router.get("/tunedModels/{tuned_model}/operations/{operation}")
    def get_operation(tuned_model: str, operation: str, caller: TuningCaller) -> Json:
        row = library.of_operation(caller, tuned_model, operation)
        return wire.operation(row, library.curve(row))

    @router.post("/tunedModels/{tuned_model}/operations/{operation}:cancel")
    def cancel_operation(
        tuned_model: str, operation: str, caller: TuningCaller, _body: wire.Cancel | None = None
    ) -> Json:
        library.cancel(caller, tuned_model, operation)
        return {}

    @router.post("/tunedModels/{tuned_model}:cancel")
    def cancel_tuned_model(tuned_model: str, caller: TuningCaller, _body: wire.Cancel | None = None) -> Json:
        library.cancel(caller, tuned_model)
        return {}

    return router


def _permissions(library: Library) -> APIRouter:
    router = APIRouter(prefix="/tunedModels/{tuned_model}/permissions", route_class=Method)

    @router.post("")
    def create_permission(tuned_model: str, body: wire.Permission, caller: TuningCaller) -> Json:
        grantee, role = read_grantee(body), read_role(body)
        return wire.permission(library.grant(caller, tuned_model, grantee, body.email_address, role))

    @router.get("")
    def list_permissions(
        tuned_model: str, caller: TuningCaller, page_size: PageSize = 0, page_token: PageToken = ""
    ) -> Json:
        rows = library.permissions(caller, tuned_model)
        start, size = position(page_token, len(rows)), page_size_of(page_size)
        rest = str(start + size) if start + size < len(rows) else ""
        page = [wire.permission(row) for row in rows[start : start + size]]
        return wire.message(permissions=page, next_page_token=rest)

    @router.get("/{permission}")
    def get_permission(tuned_model: str, permission: str, caller: TuningCaller) -> Json:
        return wire.permission(library.permission(caller, tuned_model, permission))

    @router.patch("/{permission}")
    def patch_permission(
        tuned_model: str, permission: str, body: wire.Permission, caller: TuningCaller, update_mask: Mask = ""
    ) -> Json:
        check_mask(update_mask)
        return wire.permission(library.change_role(caller, tuned_model, permission, read_role(body)))

    @router.delete("/{permission}")
    def delete_permission(tuned_model: str, permission: str, caller: TuningCaller) -> Json:
        library.revoke(caller, tuned_model, permission)
        return {}

    return router
