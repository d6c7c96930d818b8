"""The methods of the API, under the paths that its clients use.

All are under `/v1beta` and `/v1`. Google has the tuning methods only under v1beta, but google-genai calls them under
v1, and cancels a job with `tunedModels/{id}:cancel` instead of its operation's `:cancel`.
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
from tunerun.generation import Answer, AnswerPart, Prompt
from tunerun.service.core.library import Library
from tunerun.service.core.model_calls import ServedModel, ServedModels
from tunerun.service.core.problems import Code, Json, ServiceError, invalid
from tunerun.service.core.records import TunedModelRow
from tunerun.service.gemini import permissions, responses, wire
from tunerun.service.gemini.dialect import VERSIONS, envelope
from tunerun.service.gemini.lists import PageSize, PageToken, page_size_of, read_page
from tunerun.service.gemini.method import GeminiRoute, Mask, TuningCaller, warn
from tunerun.service.gemini.prompts import beyond_the_guide, read_conversation, read_prompt
from tunerun.service.gemini.tuning_request import advice, read_change, read_new_model
from tunerun.service.routes import Caller

_SECURITY = [
    Depends(APIKeyHeader(name="x-goog-api-key", auto_error=False)),
    Depends(APIKeyQuery(name="key", auto_error=False)),
    Depends(HTTPBearer(auto_error=False)),
]


class RpcStatus(BaseModel, title="Status"):
    """google.rpc.Status, as a Google API answers it."""

    code: int
    message: str
    status: str
    details: list[dict[str, Any]] = []


class RpcErrorEnvelope(BaseModel, title="ErrorEnvelope"):
    """The body of every error response."""

    error: RpcStatus


# Without 499: the client that it would be sent to has disconnected.
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": RpcErrorEnvelope,
        "description": "; ".join(code.name for code in Code if code.http_status == status),
    }
    for status in sorted({code.http_status for code in Code} - {Code.CANCELLED.http_status})
}


class Methods:
    """The methods that call a model.

    Args:
        models: the models that can be called.
    """

    def __init__(self, models: ServedModels) -> None:
        self.models = models
        self.library = models.library

    async def answer(self, model: ServedModel, body: wire.GenerateContent, request: Request) -> JSONResponse:
        """Answer a prompt with one candidate, and with warnings about the model and the prompt.

        Args:
            model: the model that answers.
            body: the request's body.
            request: the request; if its client disconnects, the prompt is cancelled.

        Raises:
            ServiceError: the prompt is invalid or cannot be answered.
        """
        prompt, answer = await self.answered(model, body, request)
        response = JSONResponse(_last_part(model, prompt, answer))
        warn(response, model.warning)
        warn(response, beyond_the_guide(body, model.adapter))
        return response

    async def answered(self, model: ServedModel, body: wire.GenerateContent, request: Request) -> tuple[Prompt, Answer]:
        """Return the prompt of a request and its answer; arguments and errors as for `answer`."""
        prompt = await _prompt(model, body)
        queued = self.models.ask(model, [prompt])
        (answer,) = await self.models.answered(model, queued, request.is_disconnected, "contents")
        return prompt, answer

    async def stream(self, model: ServedModel, body: wire.GenerateContent, *, as_events: bool) -> StreamingResponse:
        """Stream the answer to a prompt.

        Args:
            model: the model that answers.
            body: the request's body.
            as_events: as server-sent events; otherwise as one JSON array.

        Raises:
            ServiceError: the prompt is invalid or cannot be answered. An error after the first part is the last part
                of the stream instead.
        """
        parts = self._parts(model, await _prompt(model, body))
        # Wait for the first part: an error before it still becomes a response with a status of its own.
        chunks = _chunks(await anext(parts), parts, as_events=as_events)
        response = StreamingResponse(chunks, media_type="text/event-stream" if as_events else "application/json")
        warn(response, model.warning)
        warn(response, beyond_the_guide(body, model.adapter))
        return response

    async def _parts(self, model: ServedModel, prompt: Prompt) -> AsyncIterator[Json]:
        """Yield the parts of an answer as they arrive from the engine's thread."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[AnswerPart | None] = asyncio.Queue()

        def put(_position: int, part: AnswerPart | None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, part)

        # Parts arrive on the engine's thread, and None once the future is done, also with an error.
        (answer,) = self.models.ask(model, [prompt], put)
        answer.add_done_callback(lambda _: put(0, None))
        sent = 0
        try:
            while (part := await arrived.get()) is not None:
                sent += len(part.text)
                yield responses.generated(part.text, model.name)
            yield _last_part(model, prompt, await self.models.awaited(answer, model, "contents"), after=sent)
        finally:
            self.models.leave(model, answer)  # no effect on a complete answer; otherwise the client has disconnected


async def _prompt(model: ServedModel, body: wire.GenerateContent) -> Prompt:
    """Read the prompt of a request, in a thread, since a template may take up to a second."""

    def read() -> Prompt:
        prompt = read_prompt(body, model.defaults, model.adapter, model.template)
        return model.prepared(prompt, "systemInstruction")

    return await run_in_threadpool(read)


def _last_part(model: ServedModel, prompt: Prompt, answer: Answer, after: int = 0) -> Json:
    """Return an answer, without the characters that were already sent, and with the reason why it ends here."""
    finish = "MAX_TOKENS" if answer.is_cut else "STOP"
    tokens = model.offered.counter.count_input(prompt.input), answer.tokens
    return responses.generated(
        answer.text[after:], model.name, finish=finish, finish_message=model.warning, tokens=tokens
    )


async def _chunks(first: Json, parts: AsyncIterator[Json], *, as_events: bool) -> AsyncIterator[str]:
    """Yield the text of a stream; an error becomes the last part, since the response's status has been sent."""

    def chunk(part: Json) -> str:
        return f"data: {json.dumps(part)}\r\n\r\n" if as_events else f",\r\n{json.dumps(part)}"

    yield chunk(first) if as_events else f"[{json.dumps(first)}"
    try:
        async for part in parts:
            yield chunk(part)
    except ServiceError as error:
        yield chunk(envelope(error))
    if not as_events:
        yield "]"


def routes(methods: Methods) -> APIRouter:
    """Return the routes of all methods, under both versions."""
    router = APIRouter(dependencies=_SECURITY, responses=_ERRORS, default_response_class=JSONResponse)
    for version in VERSIONS:
        router.include_router(_models(methods), prefix=f"/{version}", tags=["models"])
        router.include_router(_tuned_models(methods.library), prefix=f"/{version}", tags=["tunedModels"])
        router.include_router(_called_tuned_models(methods), prefix=f"/{version}", tags=["tunedModels"])
        router.include_router(_operations(methods.library), prefix=f"/{version}", tags=["operations"])
        router.include_router(permissions.routes(methods.library), prefix=f"/{version}", tags=["permissions"])
    return router


Alt = Annotated[str, Query()]


def _models(methods: Methods) -> APIRouter:
    router = APIRouter(route_class=GeminiRoute)
    catalogue = methods.library.catalogue

    @router.get("/models")
    def list_models(_caller: Caller, page_size: PageSize = 0, page_token: PageToken = "") -> Json:
        if page_token:
            raise invalid("pageToken", "is not a token of this list, which has one page")
        page_size_of(page_size)  # only checked: the list has one page
        return {"models": [responses.model(offered) for offered in catalogue.offered.values()]}

    @router.get("/models/{model}")
    def get_model(model: str, _caller: Caller) -> Json:
        return responses.model(methods.models.base(model).offered)

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
        whole = body.generate_content_request
        contents = body.contents if whole is None else whole.contents
        conversation = read_conversation(contents, None if whole is None else whole.system_instruction)
        try:
            return responses.message(total_tokens=counter.count_input(conversation))
        except NoTurnsError as error:
            raise invalid("contents", str(error)) from error

    return router


def _tuned_models(library: Library) -> APIRouter:
    router = APIRouter(route_class=GeminiRoute)

    def shown(row: TunedModelRow) -> Json:
        return responses.tuned_model(row, library.curve(row))

    @router.post("/tunedModels")
    def create_tuned_model(
        body: wire.GeminiTunedModel,
        caller: TuningCaller,
        tuned_model_id: Annotated[str, Query(alias="tunedModelId")] = "",
    ) -> JSONResponse:
        new = read_new_model(body, tuned_model_id, library.catalogue)
        row = library.create(caller, new)
        # An operation, not the model, as at Google: it names the model, and the client polls it.
        response = JSONResponse(responses.operation(row, library.curve(row)))
        warn(response, advice(len(new.training)))
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
        models = [responses.tuned_model(row, curves[row.key]) for row in page.models]
        return responses.message(tuned_models=models, next_page_token=page.next_token)

    @router.get("/tunedModels/{tuned_model}")
    def get_tuned_model(tuned_model: str, caller: TuningCaller) -> Json:
        return shown(library.get(caller, tuned_model))

    @router.patch("/tunedModels/{tuned_model}")
    def patch_tuned_model(
        tuned_model: str, body: wire.GeminiTunedModel, caller: TuningCaller, update_mask: Mask = ""
    ) -> Json:
        return shown(library.change(caller, tuned_model, read_change(body, update_mask)))

    @router.delete("/tunedModels/{tuned_model}")
    def delete_tuned_model(tuned_model: str, caller: TuningCaller) -> Json:
        library.delete(caller, tuned_model)
        return {}  # google.protobuf.Empty

    @router.post("/tunedModels/{tuned_model}:transferOwnership")
    def transfer_ownership(tuned_model: str, body: wire.TransferOwnership, caller: TuningCaller) -> Json:
        library.transfer(caller, tuned_model, body.email_address)
        return {}

    return router


def _called_tuned_models(methods: Methods) -> APIRouter:
    router = APIRouter(route_class=GeminiRoute)

    # LiteLLM calls the model `gemini/tunedModels/x` below /models.
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
        model = await run_in_threadpool(methods.models.tuned, caller, tuned_model)
        return await methods.stream(model, body, as_events=alt == "sse")

    return router


def _operations(library: Library) -> APIRouter:
    router = APIRouter(route_class=GeminiRoute)

    @router.get("/tunedModels/{tuned_model}/operations")
    def list_operations(tuned_model: str, caller: TuningCaller) -> Json:
        row = library.get(caller, tuned_model)
        return {"operations": [responses.operation(row, library.curve(row))]}

    @router.get("/tunedModels/{tuned_model}/operations/{operation}")
    def get_operation(tuned_model: str, operation: str, caller: TuningCaller) -> Json:
        row = library.of_operation(caller, tuned_model, operation)
        return responses.operation(row, library.curve(row))

    # The API has it below /v1 alone; google-generativeai (0.8.6) calls it below /v1beta.
    @router.post("/tunedModels/{tuned_model}/operations/{operation}:cancel")
    def cancel_operation(
        tuned_model: str, operation: str, caller: TuningCaller, _body: wire.CancelOperation | None = None
    ) -> Json:
        library.cancel(caller, tuned_model, operation)
        return {}

    # Not a method of the API: google-genai (3.4) calls it in `tunings.cancel`.
    @router.post("/tunedModels/{tuned_model}:cancel")
    def cancel_tuned_model(tuned_model: str, caller: TuningCaller, _body: wire.CancelOperation | None = None) -> Json:
        library.cancel(caller, tuned_model)
        return {}

    return router
