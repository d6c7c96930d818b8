"""A scripted service with the tuning methods of the Gemini API, for tests: a real HTTP server on loopback.

It does not train. A job advances by a scripted number of steps each time it is polled; the mean loss at step n is 1/n,
at n seconds after 1970. It records all requests, so that a test does not depend on what the client reports. To try it
by hand: `python -m tests.rigs.gemini_service`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.rigs.http_service import Answer, Dropped, Fault, HttpService, Json, Request

__all__ = ["Dropped", "Fault", "GeminiService", "Request", "Script"]

MAX_PAGE = 1000
DEFAULT_PAGE = 10

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


@dataclass
class _Job:
    name: str
    body: Json
    steps_per_epoch: int
    steps: int
    taken: int = 0
    error: Json | None = None

    @property
    def is_done(self) -> bool:
        return self.error is not None or self.taken >= self.steps


@dataclass
class Script:
    """The behaviour of the service.

    Attributes:
        models: base models by name, and whether each can be tuned.
        steps_per_look: how many steps a job advances each time it is requested or listed.
        failure: returns the error with which a job fails after its last step, from the body of its create request;
            None: it succeeds.
        answer: returns a model's answer, from its name and the prompt.
        fault: returns an error response for a request; None: the request is served.
        key: the only valid API key; None: any key is valid.
    """

    models: dict[str, bool] = field(default_factory=lambda: {"smollm2-135m": True, "embedding-001": False})
    steps_per_look: int = 1_000_000
    failure: Callable[[Json], str | None] = lambda _body: None
    answer: Callable[[str, str], str] = lambda _name, text: text
    fault: Callable[[Request], Fault | None] = lambda _request: None
    key: str | None = None


class GeminiService(HttpService):
    """The server, a context manager. Use its address as `backend.base_url`.

    Args:
        script: the behaviour; may be changed while the service runs.
        port: port on 127.0.0.1; 0: any free one.

    Attributes:
        created: the id of every tuned model that was created, in order; the request bodies are in `bodies`.
    """

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        self.script: Script = script or Script()
        super().__init__(port)

    def forget(self) -> None:
        """Reset the recorded requests and jobs."""
        with self._lock:
            super().forget()
            self.bodies: dict[str, Json] = {}
            self._jobs: dict[str, _Job] = {}

    def key_of(self, headers: Mapping[str, str]) -> str:
        """Return the header `x-goog-api-key`."""
        return headers.get("x-goog-api-key", "")

    def answer(self, request: Request) -> Answer:
        """Serve a request, or answer with the script's fault."""
        if self.script.key is not None and request.key != self.script.key:
            return _error(401, f"API key not valid: {request.key}")
        fault = self.script.fault(request)
        if fault is not None and not fault.applied:
            return _fault(fault)
        with self._lock:
            answered = self._served(request)
        return answered if fault is None else _fault(fault)

    def _served(self, request: Request) -> Answer:
        version, *path = request.path.strip("/").split("/")
        if version not in ("v1", "v1beta"):
            return _error(404, "no such version")
        last, _, verb = path[-1].partition(":")
        path[-1] = last
        match [request.method, *path]:
            case ["GET", "models"]:
                return _ok({"models": [self._model(name) for name in self.script.models]})
            case ["GET", "models", name] if name in self.script.models:
                return _ok(self._model(name))
            case ["POST", "models" | "tunedModels" as kind, name] if verb == "generateContent":
                return self._generated(f"{kind}/{name}", request)
            case ["POST", "tunedModels"] if version == "v1beta":
                return self._create(request)
            case ["GET", "tunedModels"]:
                return self._list(request)
            case ["GET", "tunedModels", name] if name in self._jobs:
                return _ok(self._tuned_model(self._jobs[name]))
            case ["DELETE", "tunedModels", name] if name in self._jobs:
                del self._jobs[name]
                return _ok({})
            case ["GET", "tunedModels", name, "operations"] if name in self._jobs:
                return _ok({"operations": [_operation(self._jobs[name])]})
            case ["POST", "tunedModels", name, "operations", _] if name in self._jobs and verb == "cancel":
                job = self._jobs[name]
                if not job.is_done:
                    job.error = {"code": 1, "message": "cancelled"}
                return _ok({})
        return _error(404, f"{request.method} {request.path}: not found")

    def _model(self, name: str) -> Json:
        methods = ["generateContent", *(["createTunedModel"] if self.script.models[name] else [])]
        return {"name": f"models/{name}", "supportedGenerationMethods": methods}

    def _create(self, request: Request) -> Answer:
        name = request.parameters["tunedModelId"]
        if name in self._jobs:
            return _error(409, f"tunedModels/{name} is there already")
        task = request.body["tuningTask"]
        examples, hyperparameters = task["trainingData"]["examples"]["examples"], task["hyperparameters"]
        per_epoch = -(-len(examples) // int(hyperparameters["batchSize"]))
        kept = {key: value for key, value in request.body.items() if key != "tuningTask"} | {
            "hyperparameters": hyperparameters
        }
        job = _Job(name, kept, per_epoch, per_epoch * int(hyperparameters["epochCount"]))
        self._jobs[name] = job
        self.created.append(name)
        self.bodies[name] = request.body
        return _ok(_operation(job))

    def _list(self, request: Request) -> Answer:
        size = min(int(request.parameters.get("pageSize", DEFAULT_PAGE)), MAX_PAGE)
        start = int(request.parameters.get("pageToken", 0))
        jobs = list(self._jobs.values())[start : start + size]
        page: Json = {"tunedModels": [self._tuned_model(job) for job in jobs]}
        if start + size < len(self._jobs):
            page["nextPageToken"] = str(start + size)
        return _ok(page)

    def _tuned_model(self, job: _Job) -> Json:
        """Return a job's tuned model; this advances the job."""
        if not job.is_done:
            job.taken = min(job.steps, job.taken + self.script.steps_per_look)
            reason = self.script.failure(job.body) if job.taken == job.steps else None
            job.error = None if reason is None else {"code": 13, "message": reason}
        task: Json = {
            "startTime": _time(0),
            "hyperparameters": job.body["hyperparameters"],
            "snapshots": list(_snapshots(job)),
        }
        if job.is_done:
            task["completeTime"] = _time(job.taken)
        state = "FAILED" if job.error is not None else "ACTIVE" if job.is_done else "CREATING"
        model: Json = {"name": f"tunedModels/{job.name}", "state": state, "tuningTask": task}
        return model | {key: job.body[key] for key in ("displayName", "description", "baseModel") if key in job.body}

    def _generated(self, name: str, request: Request) -> Answer:
        kind, _, identifier = name.partition("/")
        known = self._jobs if kind == "tunedModels" else self.script.models
        if identifier not in known:
            return _error(404, f"{name}: not found")
        text = request.body["contents"][-1]["parts"][0]["text"]
        parts = [{"text": self.script.answer(name, text)}]
        return _ok({"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]})


def _ok(body: Json) -> Answer:
    return 200, body, {}


def _error(status: int, message: str) -> Answer:
    return _fault(Fault(status, message))


def _fault(fault: Fault) -> Answer:
    error: Json = {"code": fault.status, "message": fault.message, "status": _STATUS.get(fault.status, "UNKNOWN")}
    if fault.details:
        error["details"] = list(fault.details)
    return fault.status, {"error": error}, fault.headers


def _operation(job: _Job) -> Json:
    metadata = {"tunedModel": f"tunedModels/{job.name}", "totalSteps": job.steps}
    operation: Json = {"name": f"tunedModels/{job.name}/operations/tuning", "metadata": metadata}
    if job.is_done:
        operation["done"] = True
        operation |= {"error": job.error} if job.error is not None else {"response": {"name": metadata["tunedModel"]}}
    return operation


def _snapshots(job: _Job) -> Iterable[Json]:
    for step in range(1, job.taken + 1):
        epoch = (step - 1) // job.steps_per_epoch + 1
        yield {"step": step, "epoch": epoch, "meanLoss": 1 / step, "computeTime": _time(step)}


def _time(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"1970-01-{day + 1:02}T{hour:02}:{minute:02}:{second:02}Z"


def main() -> None:
    """Serve until Ctrl-C, and print the address."""
    service = GeminiService()
    print(service.address, flush=True)  # noqa: T201 - the address for the user who started it
    service.serve_forever()


if __name__ == "__main__":
    main()
