"""Prompts on the page: a tuned model beside its base model, and two tuned models beside each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from tunerun.service.core.credentials import Key
from tunerun.service.core.model_calls import ServedModel
from tunerun.service.core.problems import Code, Json, ServiceError
from tunerun.service.gemini import wire
from tunerun.service.gemini.api import Methods
from tunerun.service.page.rendering import PageRoute, page
from tunerun.service.page.snippets import snippets
from tunerun.service.page.view_models import MAX_SOURCES, ShownModel, ViewModels
from tunerun.service.routes import Caller

MOST_TEMPERATURE = 2.0
"""The limit of both wires; answers above it are noise."""


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer; `cut_after`: the number of tokens after which it was cut; None: it ended by itself."""

    name: str
    text: str
    cut_after: int | None


@dataclass(frozen=True)
class Tried:
    """A prompt and its answers.

    Attributes:
        cells: the inputs: one for each column of the model's template, or a single text.
        temperature: the input; empty: each model's default.
        problem: why it was not answered.
    """

    cells: tuple[str, ...]
    temperature: str = ""
    answers: tuple[ShownAnswer, ...] = ()
    problem: str | None = None


def model_page(
    request: Request,
    caller: Key,
    shown: ShownModel,
    tried: Tried | None = None,
    status: int = 200,
    edited: Mapping[str, str] | None = None,
) -> Response:
    """The page of one tuned model.

    Args:
        edited: the submitted name and description, and the problem with them.
    """
    address = str(request.base_url).rstrip("/")
    programs = snippets(address, shown.openai_name, f"tunedModels/{shown.row.id}")
    values: dict[str, Any] = {"owner": caller.owner, "shown": shown, "tried": tried, "edited": edited}
    return page("model.html", status, **values, snippets=programs)


def routes(methods: Methods, views: ViewModels) -> APIRouter:
    """The routes of the forms for prompts."""
    router = APIRouter(route_class=PageRoute)

    @router.post("/library/{identifier}/try")
    async def try_model(
        identifier: str,
        caller: Caller,
        request: Request,
        text: Annotated[list[str] | None, Form()] = None,
        temperature: Annotated[str, Form()] = "",
    ) -> Response:
        shown = await run_in_threadpool(views.one, caller, identifier)
        tried = Tried(_typed(text), temperature)
        try:
            called = await run_in_threadpool(_beside_base, methods, caller, shown)
            answers = await _answers(methods, called, _prompt_of(shown.columns, tried), request)
        except ServiceError as error:
            failed = replace(tried, problem=error.message)
            return model_page(request, caller, shown, failed, error.code.http_status)
        return model_page(request, caller, shown, replace(tried, answers=answers))

    @router.get("/compare")
    def compare(caller: Caller, one: Annotated[str, Query()] = "", other: Annotated[str, Query()] = "") -> Response:
        return _compare_page(methods, views, caller, (one, other))

    @router.post("/compare")
    async def ask_two(
        caller: Caller,
        request: Request,
        one: Annotated[str, Form()] = "",
        other: Annotated[str, Form()] = "",
        text: Annotated[list[str] | None, Form()] = None,
        temperature: Annotated[str, Form()] = "",
    ) -> Response:
        tried, chosen = Tried(_typed(text), temperature), (one, other)
        try:
            asked = _prompt_of((), tried)
            if not all(chosen):
                raise ServiceError(Code.INVALID_ARGUMENT, "Choose two tuned models.")
            called = [await run_in_threadpool(methods.models.tuned, caller, each) for each in chosen]
            tried = replace(tried, answers=await _answers(methods, called, asked, request))
        except ServiceError as error:
            tried, status = replace(tried, problem=error.message), error.code.http_status
            return await run_in_threadpool(_compare_page, methods, views, caller, chosen, tried, status)
        return await run_in_threadpool(_compare_page, methods, views, caller, chosen, tried)

    return router


def _compare_page(
    methods: Methods,
    views: ViewModels,
    caller: Key,
    chosen: Sequence[str],
    tried: Tried | None = None,
    status: int = 200,
) -> Response:
    """The page that compares two tuned models, or has them chosen."""
    shown = [views.one(caller, each) for each in chosen if each] if status != Code.NOT_FOUND.http_status else []
    rows = [*methods.library.active(caller)[:MAX_SOURCES], *(each.row for each in shown)]
    offered = {row.id: row.display_name.strip() or row.id for row in rows}
    values: dict[str, Any] = {"owner": caller.owner, "offered": offered, "chosen": chosen, "shown": shown}
    return page("compare.html", status, **values, tried=tried)


def _typed(text: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(cell.replace("\r\n", "\n") for cell in text or ())  # as forms send the line breaks of a text box


def _prompt_of(columns: Sequence[str], tried: Tried) -> wire.GenerateContent:
    """The prompt of the inputs: a row for the columns of a template, or the text."""
    cells = tried.cells
    if not any(cells):
        raise ServiceError(Code.INVALID_ARGUMENT, "The prompt is empty; type one.")
    if len(cells) != max(1, len(columns)):
        raise ServiceError(Code.INVALID_ARGUMENT, "The form cannot be read. Load the page again, and send it again.")
    text = json.dumps(dict(zip(columns, cells, strict=True)), ensure_ascii=False) if columns else cells[0]
    return wire.GenerateContent(
        contents=[wire.Content(role="user", parts=[wire.ContentPart(text=text)])],
        generation_config=wire.GenerationConfig(temperature=_temperature(tried.temperature)),
    )


def _temperature(typed: str) -> float | None:
    """The temperature as a number; None: the input is empty."""
    if not typed.strip():
        return None
    try:
        found = float(typed)
    except ValueError:
        found = -1.0
    if not 0 <= found <= MOST_TEMPERATURE:
        words = f"The temperature is a number from 0 to {MOST_TEMPERATURE:g}, or empty for each model's own."
        raise ServiceError(Code.INVALID_ARGUMENT, words)
    return found


def _beside_base(methods: Methods, caller: Key, shown: ShownModel) -> tuple[ServedModel, ServedModel]:
    """A tuned model and its base model, with the same limit and template."""
    tuned = methods.models.tuned(caller, shown.row.id)
    base = methods.models.base(shown.row.base_model)
    limits = replace(base.defaults, max_output_tokens=tuned.defaults.max_output_tokens)
    return tuned, replace(base, defaults=limits, template=tuned.template)


async def _answers(
    methods: Methods, called: Sequence[ServedModel], asked: wire.GenerateContent, request: Request
) -> tuple[ShownAnswer, ...]:
    """The answers of models to the same prompt, as the API gives them."""
    answers = await asyncio.gather(*(methods.generated(one, asked, request) for one in called))
    return tuple(_answered(one, answer) for one, answer in zip(called, answers, strict=True))


def _answered(called: ServedModel, answer: Json) -> ShownAnswer:
    candidate = answer["candidates"][0]
    is_cut = candidate["finishReason"] == "MAX_TOKENS"
    text = candidate["content"]["parts"][0]["text"]
    return ShownAnswer(called.name, text, called.defaults.max_output_tokens if is_cut else None)
