"""Prompts on the page: a tuned model beside its base model, and two tuned models beside each other."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from tunerun.service.core.credentials import Key
from tunerun.service.core.model_calls import ServedModel
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.gemini import wire
from tunerun.service.gemini.api import Methods
from tunerun.service.page.rendering import PageRoute, page
from tunerun.service.page.snippets import snippets
from tunerun.service.page.view_models import MAX_SOURCES, ModelView, ViewModels
from tunerun.service.routes import Caller

MOST_TEMPERATURE = 2.0
"""The limit of both wires; answers above it are noise."""


@dataclass(frozen=True)
class AnswerView:
    """A model's answer.

    Attributes:
        name: of the model.
        text: the answer.
        cut_after: number of tokens after which it was cut off; None: it ended by itself.
    """

    name: str
    text: str
    cut_after: int | None


@dataclass(frozen=True)
class PromptForm:
    """A submitted prompt and its answers.

    Attributes:
        cells: the inputs: one for each column of the model's template, or a single text.
        temperature: the input; empty: each model's default.
        answers: the answers; empty if there is a problem.
        problem: why it was not answered.
    """

    cells: tuple[str, ...]
    temperature: str = ""
    answers: tuple[AnswerView, ...] = ()
    problem: str | None = None

    @classmethod
    def of(cls, text: Sequence[str] | None, temperature: str) -> PromptForm:
        """Return a form as it was submitted; browsers send line breaks as CR LF."""
        return cls(tuple(cell.replace("\r\n", "\n") for cell in text or ()), temperature)

    def request(self, columns: Sequence[str]) -> wire.GenerateContent:
        """Return the equivalent request of the Gemini API.

        Args:
            columns: of the model's template, which make the cells a row; empty: the prompt is one text.

        Raises:
            ServiceError: the prompt is empty, the cells do not match the columns, or the temperature is invalid.
        """
        if not any(self.cells):
            raise ServiceError(Code.INVALID_ARGUMENT, "The prompt is empty; type one.")
        if len(self.cells) != max(1, len(columns)):  # the template changed since the page was loaded
            words = "The form cannot be read. Load the page again, and send it again."
            raise ServiceError(Code.INVALID_ARGUMENT, words)
        row = dict(zip(columns, self.cells, strict=True)) if columns else {}
        text = json.dumps(row, ensure_ascii=False) if columns else self.cells[0]

        temperature = None
        if self.temperature.strip():
            try:
                temperature = float(self.temperature)
            except ValueError:
                temperature = math.nan
            if not 0 <= temperature <= MOST_TEMPERATURE:  # false for NaN too
                words = f"The temperature is a number from 0 to {MOST_TEMPERATURE:g}, or empty for each model's own."
                raise ServiceError(Code.INVALID_ARGUMENT, words)
        return wire.GenerateContent(
            contents=[wire.Content(role="user", parts=[wire.ContentPart(text=text)])],
            generation_config=wire.GenerationConfig(temperature=temperature),
        )


def model_page(
    request: Request,
    caller: Key,
    view: ModelView,
    submitted: PromptForm | None = None,
    status: int = 200,
    edited: Mapping[str, str] | None = None,
) -> Response:
    """Return the page of one tuned model.

    Args:
        request: the request, whose address programs on the page call.
        caller: the visitor.
        view: the tuned model.
        submitted: a submitted prompt; None: none was.
        status: the HTTP status.
        edited: the submitted name and description, and the problem with them; None: they were not edited.
    """
    address = str(request.base_url).rstrip("/")
    programs = snippets(address, view.openai_name, f"tunedModels/{view.row.id}")
    values: dict[str, Any] = {"owner": caller.owner, "view": view, "submitted": submitted, "edited": edited}
    return page("model.html", status, **values, snippets=programs)


def routes(methods: Methods, views: ViewModels) -> APIRouter:
    """Return the routes of the forms for prompts.

    Args:
        methods: the Gemini wire's methods that call a model.
        views: the tuned models.
    """
    router = APIRouter(route_class=PageRoute)

    @router.post("/library/{identifier}/try")
    async def try_model(
        identifier: str,
        caller: Caller,
        request: Request,
        text: Annotated[list[str] | None, Form()] = None,
        temperature: Annotated[str, Form()] = "",
    ) -> Response:
        view = await run_in_threadpool(views.one, caller, identifier)
        submitted = PromptForm.of(text, temperature)

        def tuned_and_base() -> tuple[ServedModel, ServedModel]:
            tuned = methods.models.tuned(caller, identifier)
            base = methods.models.base(view.row.base_model)
            # The same limit and template: else a cut answer, or a row that is not rendered, would look like an effect
            # of the tuning.
            limits = replace(base.defaults, max_output_tokens=tuned.defaults.max_output_tokens)
            return tuned, replace(base, defaults=limits, template=tuned.template)

        try:
            models = await run_in_threadpool(tuned_and_base)
            answers = await _answers(methods, models, submitted.request(view.columns), request)
        except ServiceError as error:
            failed = replace(submitted, problem=error.message)
            return model_page(request, caller, view, failed, error.code.http_status)
        return model_page(request, caller, view, replace(submitted, answers=answers))

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
        submitted, chosen, status = PromptForm.of(text, temperature), (one, other), 200
        try:
            prompt = submitted.request(())
            if not all(chosen):
                raise ServiceError(Code.INVALID_ARGUMENT, "Choose two tuned models.")
            models = [await run_in_threadpool(methods.models.tuned, caller, each) for each in chosen]
            submitted = replace(submitted, answers=await _answers(methods, models, prompt, request))
        except ServiceError as error:
            submitted, status = replace(submitted, problem=error.message), error.code.http_status
        return await run_in_threadpool(_compare_page, methods, views, caller, chosen, submitted, status)

    return router


def _compare_page(
    methods: Methods,
    views: ViewModels,
    caller: Key,
    chosen: Sequence[str],
    submitted: PromptForm | None = None,
    status: int = 200,
) -> Response:
    """Return the page that compares two tuned models, or where they are chosen."""
    # A model that was not found, perhaps deleted since the form was loaded, must not fail this page again.
    compared = [views.one(caller, each) for each in chosen if each] if status != Code.NOT_FOUND.http_status else []
    rows = [*methods.library.active(caller)[:MAX_SOURCES], *(each.row for each in compared)]
    offered = {row.id: row.display_name.strip() or row.id for row in rows}
    values: dict[str, Any] = {"owner": caller.owner, "offered": offered, "chosen": chosen, "compared": compared}
    return page("compare.html", status, **values, submitted=submitted)


async def _answers(
    methods: Methods, models: Sequence[ServedModel], prompt: wire.GenerateContent, request: Request
) -> tuple[AnswerView, ...]:
    """Return the answers of models to the same prompt, as the Gemini API gives them."""
    answered = await asyncio.gather(*(methods.answered(model, prompt, request) for model in models))
    return tuple(
        AnswerView(model.name, answer.text, model.defaults.max_output_tokens if answer.is_cut else None)
        for model, (_, answer) in zip(models, answered, strict=True)
    )
