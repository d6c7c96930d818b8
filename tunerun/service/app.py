"""The service as an ASGI application, and everything it consists of."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from tunerun import __version__
from tunerun.backends.local import LocalBackend
from tunerun.engine.settings import EngineSettings
from tunerun.errors import LedgerError
from tunerun.files import private_folder
from tunerun.job import BaseModelRef
from tunerun.service.core.answerer import Answerer
from tunerun.service.core.catalogue import Catalogue
from tunerun.service.core.credentials import KeyFile
from tunerun.service.core.library import Library
from tunerun.service.core.model_calls import ServedModels
from tunerun.service.core.problems import MAX_PROBLEMS, Code, ServiceError, state_unavailable
from tunerun.service.core.state import State
from tunerun.service.core.stored_files import StoredFiles
from tunerun.service.core.sweep_models import SweepModel
from tunerun.service.core.tuner import Tuner
from tunerun.service.gemini.api import Methods, routes
from tunerun.service.middleware import Middleware
from tunerun.service.openai import api as openai
from tunerun.service.openai import chat, completions, files, fine_tuning, models
from tunerun.service.openai.answers import CompletionAnswerer
from tunerun.service.origins import Origins
from tunerun.service.page import pages
from tunerun.service.page.sessions import LIFE_S, Sessions
from tunerun.service.prometheus import ServiceMetrics
from tunerun.service.screening import Hosts
from tunerun.service.wires import refusal
from tunerun.workers import registry
from tunerun.workers.registry import DEFAULT, Workers

KEYS_FILE = "keys.json"

STEP_TIMEOUT_S = 30.0
"""How long a shutdown waits for running steps."""

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

log = logging.getLogger("tunerun.service")


@dataclass(frozen=True)
class Settings:
    """The settings of a service.

    Attributes:
        state: the folder of all its files.
        models: the base models that it offers.
        cache: the cache directory of base models.
        workers: where the engines that tune run, and how many side by side; see `backend.workers`.
        device, threads, packing: of each engine; see `backend.device`, `backend.threads` and `backend.packing`.
        allowed_hosts: host names that requests may have, besides addresses and localhost.
        allowed_origins: origins whose web pages may call it from a browser.
        sweep_models: tuned models of sweeps, on base models among `models`.
    """

    state: Path
    models: Sequence[BaseModelRef]
    cache: Path
    workers: Workers = DEFAULT
    device: str = "auto"
    threads: int | None = None
    packing: str | int = "auto"
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    sweep_models: Sequence[SweepModel] = ()


class Service:
    """Everything a running service consists of; the constructor prepares the base models.

    Args:
        settings: the settings.
        answerer: the class that queues prompts at the engines; tests count the prompts in a subclass.

    Raises:
        ConfigError: an allowed host or origin is invalid, or a sweep's tuned model has the name of one that the service
            has created.
        InputError: a base model cannot be found, or a package is missing.
        LedgerError: the state cannot be opened.
    """

    def __init__(self, settings: Settings, answerer: type[Answerer] = Answerer) -> None:
        # Engines of this machine share its memory: one for each base model that answers, and those that tune here.
        tuning_here = settings.workers.count if registry.are_here(settings.workers) else 0
        chosen = EngineSettings(
            settings.device, settings.threads, packing=settings.packing, engines=len(settings.models) + tuning_here
        )

        def engines(workers: Workers = DEFAULT) -> LocalBackend:
            return LocalBackend(settings.state, settings.cache, chosen, keep_cancelled=True, workers=workers)

        # Options first: a mistake in one is reported before minutes are spent on converting base models.
        self._hosts = Hosts(settings.allowed_hosts)
        self._origins = Origins(settings.allowed_origins)
        private_folder(settings.state)
        self.answerer = answerer(settings.models, engines)
        self.answerer.prepare()
        tuning = engines(settings.workers)
        tuning.prepare(settings.models)
        self.keys = KeyFile(settings.state / KEYS_FILE)
        self.keys.make()
        self.state = State(settings.state)
        catalogue = Catalogue(settings.models, settings.cache)
        self.tuner = Tuner(self.state, catalogue, tuning)
        self.library = Library(self.state, catalogue, self.tuner, settings.sweep_models)
        self.metrics = ServiceMetrics(self.state, self.tuner, self.answerer)

    def _openai(self, served: ServedModels) -> APIRouter:
        """Return the routes of the OpenAI wire."""
        named = models.Models(self.library, self.state)
        sent = files.FilesApi(StoredFiles(self.state), named)
        tuning = [*files.routes(sent), fine_tuning.routes(fine_tuning.FineTuning(named, sent)), models.routes(named)]
        answerer = CompletionAnswerer(named, served)
        answering = [chat.router(answerer), completions.router(answerer)]
        return openai.routes([*tuning, *answering], deployed=answering)

    def end(self) -> None:
        """Let the current step of each job end, for up to `STEP_TIMEOUT_S`, and close everything."""
        self.tuner.end(STEP_TIMEOUT_S)
        self.answerer.end()
        self.state.close()

    def application(self, session_life_s: float = LIFE_S, **limits: Any) -> Middleware:
        """Return the ASGI application; its lifespan starts and ends the service.

        Args:
            session_life_s: seconds until a session of the page ends.
            limits: limits of the middleware, such as `body_timeout_s`.
        """

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            self.tuner.start()
            yield
            self.end()

        app = FastAPI(
            title="tunerun: fine-tuning and answers in the words of the Gemini API and of OpenAI's",
            version=__version__,
            lifespan=lifespan,
            docs_url=None,  # its page loads scripts from another host
            redoc_url=None,
            redirect_slashes=False,  # a redirect would leave the key behind
        )
        served = ServedModels(self.library, self.tuner, self.answerer)
        methods = Methods(served)
        app.include_router(routes(methods))
        app.include_router(self._openai(served))
        sessions = Sessions(self.keys, life_s=session_life_s)
        app.include_router(pages.routes(methods, self.state, sessions))
        app.mount("/static", pages.static_files())

        @app.get("/healthz", include_in_schema=False)
        def healthz() -> PlainTextResponse:
            self.state.counts()  # raises a LedgerError, which is answered with 503, if the database cannot be read
            if not (self.tuner.is_alive and self.answerer.is_alive):
                return PlainTextResponse("the queue or the answers have ended\n", Code.UNAVAILABLE.http_status)
            return PlainTextResponse("ok\n")

        @app.get("/metrics", include_in_schema=False)
        def metrics() -> PlainTextResponse:
            return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

        for kind in (ServiceError, LedgerError, ClientDisconnect, RequestValidationError, HTTPException, Exception):
            app.add_exception_handler(kind, _refuse)
        return Middleware(app, self.keys, self.metrics, sessions.is_open, self._hosts, self._origins, **limits)


def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an error of a route, in the envelope of its wire."""
    status, body, headers = refusal(request.scope, _translated(request, error))
    if status == Code.UNIMPLEMENTED.http_status:
        # "A list of the target resource's currently supported methods" (RFC 9110, 15.5.6); starlette's error has only
        # those of the first route with this path.
        routes = request.app.router.routes
        allowed = [
            method
            for method in _METHODS
            if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
        ]
        # No route matches below a mount, which has changed the scope's root_path: that of the page's static files.
        headers = {**headers, "allow": ", ".join(allowed) or "GET, HEAD"}
    return JSONResponse(body, status, headers)


def _translated(request: Request, error: Exception) -> ServiceError:
    match error:
        case ServiceError():
            return error
        case LedgerError():
            return state_unavailable(error)
        case ClientDisconnect():  # while its body was read; the status only appears in the log
            return ServiceError(Code.CANCELLED, "the client is gone")
        case RequestValidationError():
            problems = dict(map(_problem, error.errors()))
            first, text = next(iter(problems.items()))
            fields = dict(list(problems.items())[:MAX_PROBLEMS])
            return ServiceError(Code.INVALID_ARGUMENT, f"{first}: {text}", fields=fields)
        case HTTPException():
            path = request.url.path
            # A name may contain a colon and a verb, as in `models/x:generateContent`: another verb is another method.
            if error.status_code == 404 or (error.status_code == 405 and ":" in path):
                return ServiceError(Code.NOT_FOUND, f"{request.method} {path}: there is no such method")
            if error.status_code == 405:
                words = f"{request.method} {path}: there is no such method; the header Allow names those of this path"
                return ServiceError(Code.UNIMPLEMENTED, words)
            return ServiceError(Code.INVALID_ARGUMENT, "the body is not JSON in UTF-8")
        case _:
            identifier = request.state.request_id
            log.error("request failed", exc_info=error, extra={"fields": {"request": identifier}})
            return ServiceError(Code.INTERNAL, f"an error of the service; its log has it under {identifier}")


def _problem(problem: Mapping[str, Any]) -> tuple[str, str]:
    """Return the path of a field in a body, such as `contents[0].parts`, and what pydantic says of it."""
    place = problem["loc"]
    parts = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[1:])
    path = parts.lstrip(".") or str(place[0])
    match problem["type"]:
        case "extra_forbidden":
            return path, f'Unknown name "{place[-1]}": Cannot find field.'
        case "json_invalid":
            return path, f"is not JSON: {problem.get('ctx', {}).get('error', 'it cannot be read')}"
        case _:
            return path, str(problem["msg"])
