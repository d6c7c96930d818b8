"""A scripted service that speaks OpenAI's fine-tuning methods: a real HTTP server on loopback.

It trains nothing. A job takes a scripted number of steps each time it is looked at; the loss at step n is 1/n, at
the time n seconds after 1970, and the loss on held-out examples after epoch e is 1/e. Its answers have the fields that
the real services send (reference of the wire, recorded 2026-11-25); Azure's paths are served as well.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email import message_from_bytes
from typing import Any
from urllib.parse import unquote

from tests.rigs.http_service import Answer, Fault, HttpService, Json, Request

DEFAULT_PAGE = 20


@dataclass
class _Job:
    id: str
    body: Json
    n_epochs: int
    steps_per_epoch: int
    taken: int = 0
    ended: str | None = None

    @property
    def steps(self) -> int:
        return self.n_epochs * self.steps_per_epoch


@dataclass
class Script:
    """How the service behaves.

    Attributes:
        models: base models.
        steps_per_look: how many steps a job takes each time it is retrieved or listed.
        failure: the error of a job that has taken its steps; None: it succeeds. Given the body of its creation.
        answer: what a model, by name, answers to the last message.
        fault: what a request is answered with instead; None: it is served.
        key: the API key that is asked for; None: any.
        unknown: fields of a job that it refuses. keeps_metadata: whether it shows a job's metadata.
        filters: whether it honours `metadata[...]` in a list. is_newest_first: the order of its lists.
        processed_after: looks at a file until it is processed.
        every: which steps have an event. event: what an event becomes, such as Azure's.
        result: what a result file becomes, such as base64 of it; None: there is no file.
        status: the word for a state.
    """

    models: Sequence[str] = ("smollm2-135m",)
    steps_per_look: int = 1_000_000
    failure: Callable[[Json], Json | None] = lambda _body: None
    answer: Callable[[str, str], str] = lambda _name, text: text
    fault: Callable[[Request], Fault | None] = lambda _request: None
    key: str | None = None
    unknown: frozenset[str] = frozenset()
    keeps_metadata: bool = True
    filters: bool = True
    is_newest_first: bool = True
    processed_after: int = 0
    every: int = 1
    event: Callable[[Json], Json] = lambda event: event
    result: Callable[[bytes], bytes] | None = lambda content: content
    status: Callable[[str], str] = lambda word: word


@dataclass
class _File:
    id: str
    name: str
    content: bytes
    looks: int = 0


class OpenAIService(HttpService):
    """The server; a context manager.

    Args:
        script: how it behaves; may be changed while it runs.

    Attributes:
        created: the tuned model's id of every job it was asked to create and did, in order; `bodies`: by the job's id.
        uploads: the content of every upload, in order.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or Script()
        super().__init__()

    @property
    def base_url(self) -> str:
        """What is in backend.base_url."""
        return f"{self.address}/v1"

    def forget(self) -> None:
        """Reset the recorded requests and jobs."""
        with self._lock:
            super().forget()
            self.bodies: dict[str, Json] = {}
            self.uploads: list[bytes] = []
            self._files: dict[str, _File] = {}
            self._jobs: dict[str, _Job] = {}

    def key_of(self, headers: Mapping[str, str]) -> str:
        return headers.get("authorization", "").removeprefix("Bearer ") or headers.get("api-key", "")

    def read_body(self, headers: Mapping[str, str], content: bytes) -> Json:
        kind = headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            return super().read_body(headers, content)
        form: Json = {}
        for part in message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + content).walk():
            name = part.get_param("name", header="content-disposition")
            if isinstance(name, str):
                form[name] = part.get_payload(decode=True)
                form["filename"] = part.get_filename() or form.get("filename")
        return form

    def answer(self, request: Request) -> Answer:
        if self.script.key is not None and request.key != self.script.key:
            return _refused(Fault(401, f"Incorrect API key provided: {request.key}", code="invalid_api_key"))
        fault = self.script.fault(request)
        if fault is not None and not fault.applied:
            return _refused(fault)
        with self._lock:
            answered = self._served(request)
        return answered if fault is None else _refused(fault)

    def _served(self, request: Request) -> Answer:
        path = re.sub(r"^/(v1|openai/deployments/[^/]+|openai)(?=/)", "", request.path)
        match [request.method, *map(unquote, path.strip("/").split("/"))]:
            case ["GET", "models"]:
                return _page(request, [{"id": name, "object": "model"} for name in self.script.models])
            case ["GET", "models", name] if name in self.script.models:
                return _ok({"id": name, "object": "model"})
            case ["POST", "files"]:
                return self._upload(request)
            case ["GET", "files"]:
                return _page(request, [self._file(each) for each in self._files.values()])
            case ["GET", "files", identifier] if identifier in self._files:
                return _ok(self._file(self._files[identifier]))
            case ["GET", "files", identifier, "content"] if identifier.removeprefix("file-of-") in self._jobs:
                return self._result(self._jobs[identifier.removeprefix("file-of-")])
            case ["POST", "fine_tuning", "jobs"]:
                return self._create(request)
            case ["GET", "fine_tuning", "jobs"]:
                return self._list(request)
            case ["GET", "fine_tuning", "jobs", identifier] if identifier in self._jobs:
                return _ok(self._looked_at(self._jobs[identifier]))
            case ["GET", "fine_tuning", "jobs", identifier, "events"] if identifier in self._jobs:
                return self._events(request, self._jobs[identifier])
            case ["GET", "fine_tuning", "jobs", identifier, "checkpoints"] if identifier in self._jobs:
                return _page(request, self._checkpoints(self._jobs[identifier]))
            case ["POST", "fine_tuning", "jobs", identifier, "cancel"] if identifier in self._jobs:
                return self._cancel(self._jobs[identifier])
            case ["POST", "chat", "completions"]:
                return self._chat(request)
        return _refused(Fault(404, f"Invalid URL ({request.method} {request.path})"))

    # Files

    def _upload(self, request: Request) -> Answer:
        content, name = request.body["file"], request.body["filename"]
        assert request.body["purpose"] == b"fine-tune"
        self.uploads.append(content)
        file = _File(f"file-{len(self.uploads)}", name, content)
        self._files[file.id] = file
        return _ok(self._file(file))

    def _file(self, file: _File) -> Json:
        state = "processed" if file.looks >= self.script.processed_after else "pending"
        file.looks += 1
        return {"id": file.id, "object": "file", "filename": file.name, "bytes": len(file.content), "status": state}

    def delete_files(self) -> None:
        """Forget every file."""
        with self._lock:
            self._files.clear()

    # Jobs

    def _create(self, request: Request) -> Answer:
        body = request.body
        for name in body:
            if name in self.script.unknown:
                return _refused(Fault(400, f"Unknown parameter: '{name}'.", param=name))
        for name in ("training_file", "validation_file"):
            if name in body and body[name] not in self._files:
                return _refused(Fault(400, f"invalid {name}: {body[name]}", param=name))
        method = body.get("method", {}).get("supervised", body)
        hyperparameters = method["hyperparameters"]
        rows = len(self.rows(body["training_file"]))
        per_epoch = -(-rows // hyperparameters["batch_size"])
        identifier = f"ftjob-{len(self._jobs) + 1}"
        self._jobs[identifier] = _Job(identifier, body, hyperparameters["n_epochs"], per_epoch)
        self.bodies[identifier] = body
        self.created.append(body.get("metadata", {}).get("tunerun_model") or body["suffix"])
        return _ok(self._job(self._jobs[identifier]))

    def rows(self, file: str) -> list[Json]:
        """The rows of a file."""
        text = self._files[file].content.decode("utf-8-sig")
        return [json.loads(line) for line in text.splitlines()]

    def _list(self, request: Request) -> Answer:
        jobs = list(self._jobs.values())
        if self.script.filters:
            for name, value in request.parameters.items():
                if match := re.fullmatch(r"metadata\[(.*)\]", name):
                    kept = jobs if self.script.keeps_metadata else []
                    jobs = [job for job in kept if job.body.get("metadata", {}).get(match[1]) == value]
        ordered = reversed(jobs) if self.script.is_newest_first else jobs
        return _page(request, [self._looked_at(job) for job in ordered])

    def _looked_at(self, job: _Job) -> Json:
        """Look at a job, which lets it take some steps."""
        if job.ended is None:
            job.taken = min(job.steps, job.taken + self.script.steps_per_look)
            if job.taken == job.steps:
                job.ended = "succeeded" if self.script.failure(job.body) is None else "failed"
        return self._job(job)

    def _job(self, job: _Job) -> Json:
        has_succeeded = job.ended == "succeeded"
        hyperparameters = job.body.get("hyperparameters") or job.body["method"]["supervised"]["hyperparameters"]
        return {
            "id": job.id,
            "object": "fine_tuning.job",
            "created_at": 0,
            "finished_at": job.taken if job.ended else None,
            "model": job.body["model"],
            "fine_tuned_model": self._name(job) if has_succeeded else None,
            "organization_id": None,
            "result_files": [f"file-of-{job.id}"] if has_succeeded and self.script.result else [],
            "status": self.script.status(job.ended or ("running" if job.taken else "queued")),
            "training_file": job.body["training_file"],
            "validation_file": job.body.get("validation_file"),
            "hyperparameters": hyperparameters,
            "trained_tokens": None,
            "error": self.script.failure(job.body) if job.ended == "failed" else None,
            "seed": job.body.get("seed", 0),
            "metadata": job.body.get("metadata") if self.script.keeps_metadata else None,
            "user_provided_suffix": job.body.get("suffix"),
        }

    @staticmethod
    def _name(job: _Job) -> str:
        return f"ft:{job.body['model']}:org:{job.body['suffix']}:{job.id[-8:]}"

    def _events(self, request: Request, job: _Job) -> Answer:
        size, cursor = int(request.parameters.get("limit", DEFAULT_PAGE)), request.parameters.get("after")
        known = job.taken // self.script.every
        if self.script.is_newest_first:
            start = known if cursor is None else int(cursor.rpartition("-")[2]) - 1
            numbers = range(start, max(0, start - size), -1)
            has_more = start > size
        else:
            start = 1 if cursor is None else int(cursor.rpartition("-")[2]) + 1
            numbers = range(start, min(known, start + size - 1) + 1)
            has_more = start + size <= known
        data = [self.script.event(self._event(job, number)) for number in numbers]
        return _ok({"object": "list", "data": data, "has_more": has_more})

    def _event(self, job: _Job, number: int) -> Json:
        step = number * self.script.every
        data: Json = {"step": step, "train_loss": 1 / step, "total_steps": job.steps}
        if "validation_file" in job.body and step % job.steps_per_epoch == 0:
            data |= {"valid_loss": 1.0, "full_valid_loss": job.steps_per_epoch / step}
        return {
            "id": f"ftevent-{job.id}-{number}",
            "object": "fine_tuning.job.event",
            "created_at": step,
            "level": "info",
            "message": f"Step {step}/{job.steps}: training loss={1 / step:.2f}",
            "type": "metrics",
            "data": data,
        }

    def _checkpoints(self, job: _Job) -> list[Json]:
        """The last three epochs, the newest first; the last one has the model's own name."""
        ends = [epoch * job.steps_per_epoch for epoch in range(1, job.n_epochs + 1)]
        return [
            {
                "id": f"ftckpt_{job.id}_{step}",
                "object": "fine_tuning.job.checkpoint",
                "step_number": step,
                "fine_tuned_model_checkpoint": self._name(job) + (f":ckpt-step-{step}" if step < job.steps else ""),
                "metrics": {"step": step, "train_loss": 1 / step},
            }
            for step in reversed(ends[-3:])
        ]

    def _result(self, job: _Job) -> Answer:
        rows = "".join(f"{step},{1 / step:.5f},0.5,,\n" for step in range(1, job.steps + 1))
        content = f"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n{rows}".encode()
        return 200, content if self.script.result is None else self.script.result(content), {}

    def _cancel(self, job: _Job) -> Answer:
        if job.ended is not None:
            return _refused(Fault(400, f"the job has already {job.ended}"))
        job.ended = "cancelled"
        return _ok(self._job(job))

    # Answers

    def _chat(self, request: Request) -> Answer:
        name = request.body["model"]
        tuned = {self._name(job) for job in self._jobs.values() if job.ended == "succeeded"}
        if name not in self.script.models and name.partition(":ckpt")[0] not in tuned:
            return _refused(Fault(404, f"The model `{name}` does not exist", code="model_not_found"))
        text = self.script.answer(name, request.body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return _ok({"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": name, "choices": [choice]})


def as_base64(content: bytes) -> bytes:
    """A result file as OpenAI gives it."""
    return base64.b64encode(content)


def once(fault: Fault, method: str, path: str, **script: Any) -> Script:
    """A script that answers the first request of a kind with a fault."""
    seen: list[int] = []

    def answer(request: Request) -> Fault | None:
        if request.method == method and re.fullmatch(path, request.path) and not seen:
            seen.append(request.number)
            return fault
        return None

    return replace(Script(**script), fault=answer)


def _ok(body: Json) -> Answer:
    return 200, body, {}


def _page(request: Request, objects: Sequence[Json]) -> Answer:
    """A page behind the object that the cursor names."""
    size, cursor = int(request.parameters.get("limit", DEFAULT_PAGE)), request.parameters.get("after")
    start = 0 if cursor is None else [each["id"] for each in objects].index(cursor) + 1
    found = list(objects[start : start + size])
    return _ok({"object": "list", "data": found, "has_more": start + size < len(objects)})


def _refused(fault: Fault) -> Answer:
    kind = "invalid_request_error" if fault.status < 500 else "server_error"
    error = {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}
    return fault.status, {"error": error}, {"x-request-id": "req_1", **fault.headers}
