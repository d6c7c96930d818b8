"""The backend: jobs at a service that speaks the Gemini API."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.backends.gemini.oauth import SCOPE, OAuth
from tunerun.backends.gemini.refusals import refusal
from tunerun.backends.gemini.section import KIND, GeminiSection, capabilities
from tunerun.backends.gemini.wire import (
    body_of,
    can_tune,
    contents_of,
    key_of,
    metrics_of,
    snapshots_of,
    text_of,
    wire_name,
)
from tunerun.backends.hosted import HostedBackend, failure_of
from tunerun.backends.http import ApiKey, Json, JsonService
from tunerun.errors import BaseModelError, InputError, StatusError, UnavailableError
from tunerun.examples import Conversation
from tunerun.generation import GenerateOptions
from tunerun.job import (
    TUNED_MODEL_ID,
    BaseModelRef,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    TunedModel,
    TuningRequest,
)

NO_CONVERSATIONS = (
    "backend gemini: the Gemini API tunes on one text_input and one output a row (v1beta TuningExample), so a system "
    "message or earlier turns cannot be sent; write them into template.text_input, or choose another backend"
)

PAGE = 1000
"""The most tuned models of one list request (v1beta `tunedModels.list`)."""

FEW = 2
"""Up to this many jobs are requested one by one. For more the list of all is read, which has their curves too."""

_STATES = {"CREATING": JobState.RUNNING, "ACTIVE": JobState.SUCCEEDED, "FAILED": JobState.FAILED}
"""States of a tuned model (v1beta `TunedModel.State`). There is none for a cancelled one: it is FAILED, and its
operation ended with the code `_CANCELLED`."""

_CANCELLED = 1
"""CANCELLED in google.rpc.Code."""

_VALIDATION_DATA = re.compile(r"validation_?data", re.IGNORECASE)
_LOST = Failure(FailureKind.LOST, "the service does not know the tuned model: it was deleted, or was never created")


def open_backend(section: GeminiSection, _runs: Path, _cache: Path) -> Backend:
    """Make the backend; nothing is sent yet."""
    return GeminiBackend(section)


class GeminiBackend(HostedBackend):
    """Runs jobs at a service that speaks the Gemini API.

    Args:
        section: of the config.
    """

    def __init__(self, section: GeminiSection) -> None:
        self._section = section
        credentials = OAuth(SCOPE) if section.oauth else ApiKey(section.api_key_env, "x-goog-api-key")
        service = JsonService(section.base_url, credentials, section.connect_timeout_s, section.read_timeout_s, refusal)
        super().__init__(KIND, section, service)

    def capabilities(self) -> Capabilities:
        """The limits of the tuning guide; see the Protocol."""
        return capabilities(self._section)

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Check that the service can tune every base model.

        Raises:
            BaseModelError: some do not exist there, or cannot be tuned; the message lists those that can.
        """
        problems = []
        for model in models:
            where = f"model.name: {model.name} at {self._service.base_url}"
            resource = self._service.find(f"/v1beta/{wire_name(model)}")
            if resource is None:
                problems.append(f"{where}: the service does not have this model")
            elif not can_tune(resource):
                problems.append(f"{where}: the service cannot tune this model")
        if problems:
            listed = self._listed("/v1beta/models", "models")
            tunable = ", ".join(sorted(m["name"].removeprefix("models/") for m in listed if can_tune(m))) or "none"
            raise BaseModelError([f"{problem}; base models that it can tune: {tunable}" for problem in problems])

    def _listed(self, path: str, field: str) -> Iterator[Json]:
        """Yield the objects of a list; a page is requested when the one before is used up."""
        token = ""
        while True:
            more = {"pageToken": token} if token else {}
            page = self._service.get(path, pageSize=PAGE, **more)
            yield from page.get(field, ())
            token = page.get("nextPageToken", "")
            if not token:
                return

    def submit(self, request: TuningRequest) -> JobRef:
        """Create the tuned model, unless the same key already has one that has not failed; see the Protocol.

        Raises:
            InputError: the id belongs to another trial, an example is a conversation, or the service refuses the
                request.
        """
        identifier = request.tuned_model_id
        if any(example.is_conversation for example in (*request.training, *request.validation)):
            raise InputError(NO_CONVERSATIONS)
        if not TUNED_MODEL_ID.fullmatch(identifier):
            raise InputError(
                f"the tuned model's id {identifier!r} is not allowed at the Gemini API; choose another name"
            )
        ref = JobRef(KIND, identifier)
        # The id follows from the trial's key, so a job of an earlier process is found by it, and a repeated create
        # cannot start a second paid one. Without an id the service makes one up for each create.
        if self._exists(request):
            return ref
        try:
            try:
                self._service.create("/v1beta/tunedModels", body_of(request), tunedModelId=identifier)
            except StatusError as error:
                # Google's API has no `validationData`. A service that refuses the field trains without it: the loss on
                # held-out examples is then reported as not measured.
                if error.status != 400 or not request.validation or not _VALIDATION_DATA.search(str(error)):
                    raise
                without = body_of(replace(request, validation=()))
                self._service.create("/v1beta/tunedModels", without, tunedModelId=identifier)
        except StatusError as error:
            # 409: an earlier create took effect and its answer was lost, or the id belongs to another trial.
            if error.status != 409 or not self._exists(request):
                raise
        return ref

    def _exists(self, request: TuningRequest) -> bool:
        """Whether the tuned model of a request exists. One that failed or was cancelled is deleted first."""
        model = self._get(request.tuned_model_id)
        if model is None:
            return False
        if key_of(model) != request.key:
            raise InputError(
                f"tunedModels/{request.tuned_model_id} at {self._service.base_url} was not created for this "
                "trial; delete it there, or choose another name"
            )
        if self._status(model).state not in (JobState.FAILED, JobState.CANCELLED):
            return True
        self._delete(request.tuned_model_id)  # its id is taken: a create would be answered by 409
        return False

    def _delete(self, identifier: str) -> None:
        """Delete a tuned model. If it is already gone, an earlier request deleted it and its answer was lost."""
        try:
            self._service.delete(f"/v1beta/tunedModels/{identifier}")
        except StatusError as error:
            if error.status != 404:
                raise

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:
        """Return the job of a key by its tuned model, unless that failed or was cancelled; see the Protocol."""
        model = self._get(tuned_model_id)
        if model is None or key_of(model) != key:
            return None
        ended_badly = self._status(model).state in (JobState.FAILED, JobState.CANCELLED)
        return None if ended_badly else JobRef(KIND, tuned_model_id)

    def _get(self, identifier: str) -> Json | None:
        model = self._service.find(f"/v1beta/tunedModels/{identifier}")
        # A proxy in between may answer 200 with a page or object of its own.
        if model is not None and model.get("name") != f"tunedModels/{identifier}":
            raise self._unintelligible(f"tunedModels/{identifier}")
        return model

    def _unintelligible(self, name: str) -> UnavailableError:
        return UnavailableError(
            f"{name} at {self._service.base_url}: the answer is not a tuned model of the Gemini API"
        )

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Read the pages of the service's list, or each job where there are few; see the Protocol."""
        wanted = {ref.id: ref for ref in refs if ref.backend == KIND and TUNED_MODEL_ID.fullmatch(ref.id)}
        statuses = {ref: JobStatus(JobState.FAILED, failure=_LOST) for ref in refs}
        if len(wanted) <= FEW:
            for identifier, ref in wanted.items():
                if (model := self._get(identifier)) is not None:
                    statuses[ref] = self._status(model)
        else:
            for model in self._listed("/v1beta/tunedModels", "tunedModels"):
                named = wanted.pop(str(model.get("name", "")).removeprefix("tunedModels/"), None)
                if named is not None:
                    statuses[named] = self._status(model)
                if not wanted:
                    break
        return {ref: status.after(after.get(ref, 0)) for ref, status in statuses.items()}

    def _status(self, model: Json) -> JobStatus:
        """Translate a tuned model."""
        try:
            task = model.get("tuningTask", {})
            snapshots = tuple(snapshots_of(task))
            # A state that this version does not know is RUNNING, by the Protocol.
            state = _STATES.get(str(model.get("state", "")), JobState.RUNNING)
            if state is JobState.RUNNING:
                return JobStatus(state, snapshots)
            name = str(model["name"])
            if state is JobState.FAILED:
                # A TunedModel says that it failed; only its operations say why.
                operations = self._service.get(f"/v1beta/{name}/operations").get("operations", ())
                ended = (o["error"] for o in reversed(operations) if isinstance(o.get("error"), dict))
                error: Json = next(ended, {})
                if error.get("code") == _CANCELLED:
                    return JobStatus(JobState.CANCELLED, snapshots)
                return JobStatus(state, snapshots, failure=failure_of(error.get("message")))
            # The base model as the service names it: an earlier process may have used another config.
            base = str(model.get("baseModel") or model.get("tunedModelSource", {}).get("baseModel", ""))
            base_model = BaseModelRef(name=base.removeprefix("models/") or "unknown", source=base or "unknown")
            return JobStatus(state, snapshots, metrics_of(task), TunedModel(name, base_model, name))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._unintelligible(str(model.get("name"))) from error

    def cancel(self, ref: JobRef) -> None:
        """Cancel a job; see the Protocol."""
        model = self._get(ref.id) if ref.backend == KIND and TUNED_MODEL_ID.fullmatch(ref.id) else None
        if model is None or self._status(model).state.is_finished:
            return
        operations = self._service.get(f"/v1beta/{model['name']}/operations").get("operations", ())
        # Only v1 documents the method (discovery documents of 2026-06-24); google-generativeai 0.8.6 calls it under
        # v1beta. Where a service has neither, deleting the tuned model ends the job.
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

    def _wire_name(self, model: BaseModelRef) -> str:
        return wire_name(model)

    def _answers(self, name: str, options: GenerateOptions, *, is_tuned: bool) -> Callable[[Conversation], str]:  # noqa: ARG002
        config: Json = {"maxOutputTokens": options.max_output_tokens, "temperature": options.temperature}
        if options.temperature > 0:
            config |= {"seed": options.seed, "topP": options.top_p}
            config |= {"topK": options.top_k} if options.top_k else {}
        if options.stop_sequences:
            config["stopSequences"] = list(options.stop_sequences)

        def answer(conversation: Conversation) -> str:
            body = {**contents_of(conversation), "generationConfig": config}
            return text_of(self._service.repeat(f"/v1beta/{name}:generateContent", body))

        return answer


if TYPE_CHECKING:
    _conforms: Backend = GeminiBackend(GeminiSection(kind="gemini"))
