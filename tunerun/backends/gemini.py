"""The backend `gemini`: any service that speaks the tuning methods of the Gemini API, v1beta.

A job's reference is the tuned model's id, which follows from the trial's key, so that a repeated create answers 409 and
what an earlier process began is found. The tuned model's description carries the key.
Facts and their sources: the API's discovery document of 2026-06-24 and its tuning guide as last served, 2025-04-28.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from tunerun import schema
from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.backends.http import ApiKey, Json, JsonService, OAuth, ServiceAddress
from tunerun.errors import BackendError, BaseModelError, InputError, StatusError, UnavailableError
from tunerun.interpolation import resolved
from tunerun.job import (
    BaseModelRef,
    Conversation,
    Example,
    Failure,
    FailureKind,
    GenerateOptions,
    Input,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TunedModel,
    TuningRequest,
    as_conversation,
    behind_examples,
)

KIND = "gemini"
IS_HOSTED = True
GOOGLE = "https://generativelanguage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/generative-language.tuning"

NO_TUNING = (
    "backend.base_url: Google's Gemini API has offered no model that can be tuned since May 2025, and plans none (its "
    "documentation, read 2026-04-29); give the address of another service, such as one that `tunerun serve` prints"
)

NO_CONVERSATIONS = (
    "backend gemini: the Gemini API tunes on one text_input and one output a row (v1beta TuningExample), so a system "
    "message or earlier turns cannot be sent; write them into template.text_input, or choose another backend"
)

NO_LOSSES = (
    "backend gemini: the Gemini API does not say how likely a stated answer is; use metrics that need only answers, "
    "or backend=local"
)

PAGE = 1000
"""The most tuned models of one list request (v1beta `tunedModels.list`)."""

FEW = 2
"""Jobs up to which each is asked for by itself; more are listed."""

_ID = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_KEY = re.compile(r"tunerun\.key=([0-9a-f]+)")
_STATES = {"CREATING": JobState.RUNNING, "ACTIVE": JobState.SUCCEEDED, "FAILED": JobState.FAILED}
_CANCELLED = 1
_VALIDATION_DATA = re.compile(r"validation_?data", re.IGNORECASE)
_LOST = Failure(FailureKind.LOST, "the service does not know the tuned model: it was deleted, or was never created")


class GeminiSection(schema.Backend):
    """A service that speaks the Gemini API's tuning methods, such as `tunerun serve`; Google's own no longer tunes."""

    kind: Literal["gemini"] = Field(description="gemini")
    base_url: ServiceAddress = Field(
        GOOGLE,
        description="Address of the service; https, or http to this machine; Google's own tunes nothing any more.",
    )
    api_key_env: str = Field(
        "GEMINI_API_KEY",
        pattern=schema.VARIABLE,
        description="Variable that holds the API key.",
    )
    oauth: bool = Field(False, description="Google's application default credentials instead of an API key.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout_s: float = Field(60.0, gt=0, description="Seconds to wait for each part of an answer.")
    max_in_flight: int = Field(
        10,
        ge=1,
        description="Jobs and prompts that the service is given at once.",
        json_schema_extra={"unit": "jobs or prompts"},
    )
    poll_interval_s: float = Field(5.0, ge=0, description="Seconds between two looks at the running jobs.")


SECTION = GeminiSection


def capabilities(section: GeminiSection) -> Capabilities:
    """What a service at the section's address can do, by the limits of the tuning guide."""
    return Capabilities(
        kind=KIND,
        address=section.base_url,
        max_input_characters=40_000,
        max_output_characters=5_000,
        source="the Gemini API's model tuning guide (as last served, 2025-04-28)",
        max_in_flight=section.max_in_flight,
        survives_runner=True,
        is_hosted=IS_HOSTED,
        has_prices=True,
        trains_exact_prefixes=False,  # the API promises no seed and no order
        precision="",
        poll_interval_s=section.poll_interval_s,
        max_training_bytes=4 * 2**20,
        not_taken=("hyperparameters.adapter_rank", "hyperparameters.adapter_alpha"),
        warnings=(NO_TUNING,) if section.base_url == GOOGLE else (),
    )


def open_backend(section: GeminiSection, _runs: Path, _cache: Path) -> Backend:
    """Make the backend; nothing is sent yet."""
    return GeminiBackend(section)


class GeminiBackend:
    """Runs jobs at a service that speaks the Gemini API.

    Args:
        section: of the config.
    """

    def __init__(self, section: GeminiSection) -> None:
        self._section = section
        credentials = OAuth(SCOPE) if section.oauth else ApiKey(section.api_key_env, "x-goog-api-key")
        self._service = JsonService(section.base_url, credentials, section.connect_timeout_s, section.read_timeout_s)

    def capabilities(self) -> Capabilities:
        """The limits of the tuning guide; see the Protocol."""
        return capabilities(self._section)

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Ask for every base model.

        Raises:
            BaseModelError: the service does not have some, or cannot tune them.
        """
        problems = [problem for model in models if (problem := self._problem(model)) is not None]
        if problems:
            tunable = ", ".join(self._tunable()) or "none"
            raise BaseModelError([f"{problem}; base models that it can tune: {tunable}" for problem in problems])

    def _problem(self, model: BaseModelRef) -> str | None:
        where = f"model.name: {model.name} at {self._section.base_url}"
        try:
            found = self._service.get(f"/v1beta/{_wire_name(model)}")
        except StatusError as error:
            if error.status == 404:
                return f"{where}: there is no such model"
            raise
        can_tune = "createTunedModel" in found.get("supportedGenerationMethods", ())
        return None if can_tune else f"{where}: it cannot be tuned there"

    def _tunable(self) -> list[str]:
        models = self._pages("/v1beta/models", "models")
        names = (m["name"].removeprefix("models/") for m in models if _can_tune(m))
        return sorted(names)

    def _pages(self, path: str, field: str) -> list[Json]:
        found: list[Json] = []
        page = self._service.get(path, pageSize=PAGE)
        while True:
            found.extend(page.get(field, ()))
            token = page.get("nextPageToken")
            if not token:
                return found
            page = self._service.get(path, pageSize=PAGE, pageToken=token)

    def submit(self, request: TuningRequest) -> JobRef:
        """Create the tuned model, unless it is there for the same key and has not failed; see the Protocol.

        Raises:
            InputError: the id is taken by another trial, an example is a conversation, or the service refuses what was
                asked.
        """
        identifier = request.tuned_model_id
        if any(example.is_conversation for example in (*request.training, *request.validation)):
            raise InputError(NO_CONVERSATIONS)
        if not _ID.fullmatch(identifier):
            raise InputError(
                f"the tuned model's id {identifier!r} is not allowed at the Gemini API; choose another name"
            )
        ref = JobRef(KIND, identifier)
        if self._stands(request):
            return ref
        try:
            self._create(identifier, request)
        except StatusError as error:
            if error.status != 409 or not self._stands(request):
                raise
        return ref

    def _create(self, identifier: str, request: TuningRequest) -> None:
        """Create the tuned model; a service that refuses `validationData`, which is not the API's, gets none."""
        try:
            self._service.create("/v1beta/tunedModels", _body(request), tunedModelId=identifier)
        except StatusError as error:
            if error.status != 400 or not request.validation or not _VALIDATION_DATA.search(str(error)):
                raise
            without = replace(request, validation=())
            self._service.create("/v1beta/tunedModels", _body(without), tunedModelId=identifier)

    def _stands(self, request: TuningRequest) -> bool:
        """Whether the tuned model of a request is there; one that failed or was cancelled is deleted."""
        found = self._get(request.tuned_model_id)
        if found is None:
            return False
        if _key_of(found) != request.key:
            raise InputError(
                f"tunedModels/{request.tuned_model_id} at {self._section.base_url} belongs to something else; "
                "delete it there, or choose another name"
            )
        if self._status(found).state not in (JobState.FAILED, JobState.CANCELLED):
            return True
        self._delete(request.tuned_model_id)
        return False

    def _delete(self, identifier: str) -> None:
        """Delete a tuned model; one that is not there any more was deleted by a request whose answer was lost."""
        try:
            self._service.delete(f"/v1beta/tunedModels/{identifier}")
        except StatusError as error:
            if error.status != 404:
                raise

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:
        """Return the job of a key by its tuned model, one that failed or was cancelled left out; see the Protocol."""
        found = self._get(tuned_model_id)
        if found is None or _key_of(found) != key:
            return None
        ended_badly = self._status(found).state in (JobState.FAILED, JobState.CANCELLED)
        return None if ended_badly else JobRef(KIND, tuned_model_id)

    def _get(self, identifier: str) -> Json | None:
        try:
            found = self._service.get(f"/v1beta/tunedModels/{identifier}")
        except StatusError as error:
            if error.status == 404:
                return None
            raise
        if found.get("name") != f"tunedModels/{identifier}":
            raise self._unintelligible(f"tunedModels/{identifier}")
        return found

    def _unintelligible(self, name: str) -> UnavailableError:
        return UnavailableError(f"{name} at {self._section.base_url}: the answer is no tuned model of the Gemini API")

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """One request for each page of the service's list, or for each job where there are few; see the Protocol."""
        wanted = {ref.id: ref for ref in refs if ref.backend == KIND and _ID.fullmatch(ref.id)}
        found = (
            self._listed(wanted) if len(wanted) > FEW else {identifier: self._get(identifier) for identifier in wanted}
        )
        statuses = {ref: JobStatus(JobState.FAILED, failure=_LOST) for ref in refs}
        statuses.update({wanted[i]: self._status(model) for i, model in found.items() if model is not None})
        return {ref: status.after(after.get(ref, 0)) for ref, status in statuses.items()}

    def _listed(self, wanted: Mapping[str, JobRef]) -> dict[str, Json]:
        found: dict[str, Json] = {}
        token = ""
        while True:
            more = {"pageToken": token} if token else {}
            page = self._service.get("/v1beta/tunedModels", pageSize=PAGE, **more)
            for model in page.get("tunedModels", ()):
                identifier = str(model.get("name", "")).removeprefix("tunedModels/")
                if identifier in wanted:
                    found[identifier] = model
            token = page.get("nextPageToken", "")
            if not token or len(found) == len(wanted):
                return found

    def _status(self, found: Json) -> JobStatus:
        try:
            return self._read_status(found)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._unintelligible(str(found.get("name"))) from error

    def _read_status(self, found: Json) -> JobStatus:
        task = found.get("tuningTask", {})
        snapshots = tuple(_snapshots(task))
        state = _STATES.get(str(found.get("state", "")), JobState.RUNNING)
        if state is JobState.FAILED:
            error = self._operation_error(str(found["name"]))
            if error.get("code") == _CANCELLED:
                return JobStatus(JobState.CANCELLED, snapshots)
            return JobStatus(state, snapshots, failure=_failure(error))
        if state is JobState.RUNNING:
            return JobStatus(state, snapshots)
        metrics = _metrics(task)
        name = str(found["name"])
        return JobStatus(state, snapshots, metrics, TunedModel(name, self._base(found), name))

    @staticmethod
    def _base(found: Json) -> BaseModelRef:
        """The base model as the service names it: an earlier process' section of the config is not known here."""
        name = str(found.get("baseModel") or found.get("tunedModelSource", {}).get("baseModel", ""))
        return BaseModelRef(name=name.removeprefix("models/") or "unknown", source=name or "unknown")

    def _operation_error(self, name: str) -> Json:
        """The error that ended a job: of its last operation."""
        operations = self._service.get(f"/v1beta/{name}/operations").get("operations", ())
        return next((o["error"] for o in reversed(operations) if isinstance(o.get("error"), dict)), {})

    def cancel(self, ref: JobRef) -> None:
        """Cancel the operation: by v1, where the method stands, else by v1beta, else by deleting the tuned model."""
        found = self._get(ref.id) if ref.backend == KIND and _ID.fullmatch(ref.id) else None
        if found is None or self._status(found).state.is_finished:
            return
        operations = self._service.get(f"/v1beta/{found['name']}/operations").get("operations", ())
        for operation in operations:
            if operation.get("done"):
                continue
            for version in ("v1", "v1beta"):
                try:
                    self._service.repeat(f"/{version}/{operation['name']}:cancel", {})
                except StatusError as error:
                    if error.status not in (404, 501):
                        raise
                else:
                    return
        self._delete(ref.id)

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """One request an input, some at a time; see the Protocol."""
        name = model.location if isinstance(model, TunedModel) else _wire_name(model)
        config: Json = {"maxOutputTokens": options.max_output_tokens, "temperature": options.temperature}
        if options.temperature > 0:
            config |= {"seed": options.seed, "topP": options.top_p}
            config |= {"topK": options.top_k} if options.top_k else {}
        if options.stop_sequences:
            config["stopSequences"] = list(options.stop_sequences)

        def answer(asked: Input) -> str:
            body = {**_contents(as_conversation(behind_examples(asked, examples))), "generationConfig": config}
            return _text(self._service.repeat(f"/v1beta/{name}:generateContent", body))

        threads = ThreadPoolExecutor(self._section.max_in_flight)
        try:
            return list(threads.map(answer, inputs))
        except StatusError as error:
            raise BackendError(f"{name} at {self._section.base_url}: {error}") from error
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def losses(
        self,
        model: BaseModelRef | TunedModel,  # noqa: ARG002 - the Protocol's
        rows: Sequence[Example],  # noqa: ARG002
        examples: Sequence[Example] = (),  # noqa: ARG002
    ) -> list[float]:
        """Refuse: the API gives no likelihood of a stated output."""
        raise InputError(NO_LOSSES)

    def choose(
        self,
        model: BaseModelRef | TunedModel,  # noqa: ARG002 - the Protocol's
        inputs: Sequence[Input],  # noqa: ARG002
        choices: Sequence[str],  # noqa: ARG002
        examples: Sequence[Example] = (),  # noqa: ARG002
    ) -> list[str]:
        """Refuse: the API gives no likelihood of a stated output."""
        raise InputError(NO_LOSSES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections; jobs go on."""
        self._service.close()


def _contents(asked: Conversation) -> Json:
    """A conversation as the wire has it, v1beta `generateContent`."""
    said = [(role, text) for t in asked.earlier for role, text in (("user", t.text_input), ("model", t.output))]
    contents = [_turn(role, text) for role, text in (*said, ("user", asked.text_input))]
    return {
        "contents": contents,
        **({"systemInstruction": {"parts": [{"text": asked.system}]}} if asked.system else {}),
    }


def _turn(role: str, text: str) -> Json:
    return {"role": role, "parts": [{"text": text}]}


def _key_of(found: Json) -> str | None:
    """The key that a tuned model was created under; None: somebody else made it."""
    key = _KEY.search(str(found.get("description", "")))
    return None if key is None else key[1]


def _wire_name(model: BaseModelRef) -> str:
    return f"models/{resolved(model.name)}"


def _can_tune(model: Json) -> bool:
    return "createTunedModel" in model.get("supportedGenerationMethods", ())


def _body(request: TuningRequest) -> Json:
    hyperparameters = request.hyperparameters
    rate = (
        {"learningRate": hyperparameters.learning_rate}
        if hyperparameters.learning_rate is not None
        else {"learningRateMultiplier": hyperparameters.learning_rate_multiplier}
    )
    examples = [{"textInput": example.text_input, "output": example.output} for example in request.training]
    held_out = [{"textInput": example.text_input, "output": example.output} for example in request.validation]
    return {
        "displayName": request.tuned_model_id,
        "description": f"tunerun.key={request.key}",
        "baseModel": _wire_name(request.model),
        "tuningTask": {
            "hyperparameters": {
                "epochCount": hyperparameters.epoch_count,
                "batchSize": hyperparameters.batch_size,
                **rate,
            },
            "trainingData": {"examples": {"examples": examples}},
            # A field of `tunerun serve`: the loss of these is measured there, as the embedded engine does it.
            **({"validationData": {"examples": {"examples": held_out}}} if held_out else {}),
        },
    }


def _snapshots(task: Json) -> list[Snapshot]:
    """By step, each once; zero values are left out on the wire."""
    found = {
        int(snapshot.get("step", 0)): Snapshot(
            step=int(snapshot.get("step", 0)),
            epoch=int(snapshot.get("epoch", 0)),
            mean_loss=float(snapshot.get("meanLoss", 0.0)),
            compute_time=_seconds(snapshot.get("computeTime")) or 0.0,
        )
        for snapshot in task.get("snapshots", ())
    }
    return [found[step] for step in sorted(found)]


def _metrics(task: Json) -> dict[str, float]:
    start, end = _seconds(task.get("startTime")), _seconds(task.get("completeTime"))
    metrics = {} if start is None or end is None or end <= start else {"train/seconds": end - start}
    losses = {"validation/loss": task.get("validationLoss"), "validation/base_loss": task.get("baseValidationLoss")}
    return metrics | {name: float(loss) for name, loss in losses.items() if loss is not None}


def _seconds(time: object) -> float | None:
    """RFC 3339 as seconds since 1970; None: not given."""
    return None if not isinstance(time, str) else datetime.fromisoformat(time).timestamp()


def _failure(error: Json) -> Failure:
    """Why a job failed: by the kind that `tunerun serve` writes in front, else by a word that others use."""
    message = " ".join(str(error.get("message") or "the service gave no reason").split())
    prefix, _, rest = message.partition(": ")
    if prefix in list(FailureKind):
        return Failure(FailureKind(prefix), rest)
    kind = FailureKind.CRASHED
    if "memory" in message.lower():
        kind = FailureKind.OUT_OF_MEMORY
    elif "diverged" in message.lower() or "nan" in message.lower().split():
        kind = FailureKind.DIVERGED
    return Failure(kind, message)


def _text(answer: Json) -> str:
    """The text of the first candidate; empty where the service held it back."""
    candidates = answer.get("candidates") or [{}]
    parts = candidates[0].get("content", {}).get("parts", ())
    return "".join(str(part.get("text", "")) for part in parts)


if TYPE_CHECKING:
    _conforms: Backend = GeminiBackend(GeminiSection(kind="gemini"))
