"""The backend: jobs at a service that speaks OpenAI's fine-tuning methods."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.backends.hosted import HostedBackend
from tunerun.backends.http import ApiKey, Json, JsonService
from tunerun.backends.openai import jobs
from tunerun.backends.openai.files import IDENTIFIER, TrainingFiles, content_of, messages, pages
from tunerun.backends.openai.refusals import is_unknown_field, refusal
from tunerun.backends.openai.section import KIND, OpenAISection, capabilities
from tunerun.backends.openai.statuses import PAGE, JobStatuses
from tunerun.errors import AmbiguousError, BaseModelError, InputError, StatusError
from tunerun.examples import Conversation
from tunerun.generation import GenerateOptions
from tunerun.interpolation import resolved
from tunerun.job import (
    BaseModelRef,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    TuningRequest,
)
from tunerun.retry import retry

FEW = 2
"""Up to this many jobs are polled one by one; for more, the list of all jobs is read."""

LOOKED_AT = 1000
"""How many of the newest jobs are searched for a suffix, at a service that does not keep metadata. Our choice: at
most ten requests before a create."""

SERVED_WITHIN_S, SERVED_ATTEMPTS = 30.0, 6
"""Limits of the retries of a tuned model that answers 404. Our choice: some services serve it only seconds after the
job has succeeded."""

MAX_STOPS = 4
"""The most stop sequences of a request (openai 3.57.0, `completion_create_params`)."""

_NAMED = 20
"""The most models that an error lists."""

_LOST = Failure(FailureKind.LOST, "the service does not know the job: it was deleted, or was never created")
_ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)


def open_backend(section: OpenAISection, _runs: Path, _cache: Path) -> Backend:
    """Return the backend; no request is sent yet."""
    return OpenAIBackend(section)


class OpenAIBackend(HostedBackend):
    """Runs jobs at a service that speaks OpenAI's API.

    Args:
        section: the backend's config section.
    """

    def __init__(self, section: OpenAISection) -> None:
        self._section = section
        self._host = section.host
        self._prefix = "/openai" if section.api_version is not None else ""
        self._jobs = f"{self._prefix}/fine_tuning/jobs"
        named = {"openai-organization": section.organization, "openai-project": section.project}
        service = JsonService(
            section.base_url,
            ApiKey(section.api_key_env, self._host.key_header, self._host.key_scheme),
            section.connect_timeout_s,
            section.read_timeout_s,
            refusal,
            headers={name: value for name, value in named.items() if value is not None},
            parameters={} if section.api_version is None else {"api-version": section.api_version},
        )
        super().__init__(KIND, section, service)
        self._files = TrainingFiles(service, self._prefix)
        self._refused: set[str] = set()  # optional fields of a create request that this service does not know
        self._keeps_metadata: bool | None = None
        self._length = "max_tokens"
        self._submitting, self._reading = threading.Lock(), threading.Lock()
        self._statuses = JobStatuses(service, self._prefix)

    def capabilities(self) -> Capabilities:
        """Return what is known about the service; see the Protocol."""
        return capabilities(self._section)

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Check that the service has every base model.

        Args:
            models: the base models that jobs and prompts will use.

        Raises:
            BaseModelError: models are missing; has all problems.
        """
        missing = [model.name for model in models if not self._has(resolved(model.name))]
        if missing:
            available = self._listed_models()
            problem = f"at {self._service.base_url}: the model does not exist, or the key may not use it; available:"
            raise BaseModelError([f"model.name: {name} {problem} {available}" for name in missing])

    def _has(self, name: str) -> bool:
        """Whether the service has a model; also True if the service does not implement `/models`."""
        try:
            self._service.get(f"{self._prefix}/models/{quote(name, safe=':')}")
        except StatusError as error:
            if error.status not in (404, 405):
                raise
            return self._listed_models() == ""
        return True

    def _listed_models(self) -> str:
        """Return the names of the first models for an error; empty if the service does not list models."""
        try:
            names = sorted(str(each.get("id")) for each in pages(self._service, f"{self._prefix}/models"))
        except StatusError as error:
            if error.status in (404, 405):
                return ""
            raise
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"{', '.join(names[:_NAMED])}{more}" if names else "none"

    def submit(self, request: TuningRequest) -> JobRef:
        """Create a job, unless one with the same key is under way or has succeeded; see the Protocol.

        Raises:
            InputError: the service refuses the request.
            AmbiguousError: the answer is unusable, so the job may exist; submit again to find it.
        """
        # This wire has no idempotency key, and each create is a paid job: look first, create once, and look again where
        # the outcome is unknown. OpenAI's own client repeats a create after 5xx (openai 3.54.0, recorded 2026-11-22).
        with self._submitting:
            if (there := self.find(request.key, request.tuned_model_id)) is not None:
                return there
            try:
                created = self._created(request)
            except AmbiguousError:
                # The service may have created the job and its answer was lost.
                if (there := self.find(request.key, request.tuned_model_id)) is not None:
                    return there
                raise
        identifier = str(created.get("id", ""))
        if not IDENTIFIER.fullmatch(identifier):
            raise AmbiguousError(f"{self._jobs}: the answer is not a job of OpenAI's API; it may have been created")
        return JobRef(KIND, identifier)

    def _created(self, request: TuningRequest) -> Json:
        """Create a job; if the service refuses an optional field as unknown, try again without it."""
        has_mark = self._host.has_mark
        files = {"training_file": self._files.identifier(content_of(request.training, has_mark=has_mark))}
        if request.validation:
            files["validation_file"] = self._files.identifier(content_of(request.validation, has_mark=has_mark))
        while True:
            body = jobs.body_of(request, files, self._refused, rate_is_absolute=self._host.rate_is_absolute)
            try:
                created = self._service.create(self._jobs, body)
            except StatusError as error:
                unknown = [name for name in jobs.OPTIONAL if name in body and is_unknown_field(error, name)]
                if not unknown:
                    raise
                self._refused.update(unknown)
            else:
                self._keeps_metadata = jobs.keeps_metadata(created)
                return created

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:
        """Return the job of a key that is under way or has succeeded; see the Protocol."""
        try:
            candidates = self._newest(**{f"metadata[{jobs.KEY}]": key})
        except StatusError as error:
            if error.status not in (400, 422):  # a service that does not know the filter refuses it
                raise
            candidates = []
        # Gateways such as LiteLLM drop metadata (1.110.2): there, only the suffix marks a job as ours.
        if not self._keeps_metadata and not any(jobs.keeps_metadata(job) for job in candidates):
            candidates += self._newest()
        suffix = jobs.suffix_of(key, tuned_model_id)
        for job in candidates:
            if jobs.is_of(job, key, suffix) and jobs.state_of(job) not in _ENDED_BADLY:
                return JobRef(KIND, jobs.identifier_of(job))
        return None

    def _newest(self, **filters: str) -> list[Json]:
        """Return the newest jobs, up to the first with our metadata: a service that keeps them also filters by them."""
        newest = []
        for job in itertools.islice(pages(self._service, self._jobs, limit=PAGE, **filters), LOOKED_AT):
            if not filters and jobs.keeps_metadata(job):
                self._keeps_metadata = True
                break
            newest.append(job)
        return newest

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Request the jobs (a page of the list for many), and for each running job its new events; see the Protocol."""
        wanted = {ref.id: ref for ref in refs if ref.backend == KIND and IDENTIFIER.fullmatch(ref.id)}
        statuses = {ref: JobStatus(JobState.FAILED, failure=_LOST) for ref in refs}
        with self._reading:
            final = {
                ref: status
                for identifier, ref in wanted.items()
                if (status := self._statuses.final(identifier)) is not None
            }
            statuses.update(final)
            missing = {identifier for identifier, ref in wanted.items() if ref not in final}
            by_id: dict[str, Json] = {}
            if len(missing) > FEW:
                for job in pages(self._service, self._jobs, limit=PAGE):
                    if job.get("id") in missing:
                        by_id[str(job["id"])] = job
                    if len(by_id) == len(missing):
                        break
            # A job that the list does not have is requested by itself before it counts as lost: a list may be capped.
            for identifier in missing - by_id.keys():
                if (one := self._get(identifier)) is not None:
                    by_id[identifier] = one
            for identifier, job in by_id.items():
                statuses[wanted[identifier]] = self._statuses.of(job)
        return {ref: status.after(after.get(ref, 0)) for ref, status in statuses.items()}

    def _get(self, identifier: str) -> Json | None:
        job = self._service.find(f"{self._jobs}/{quote(identifier)}")
        # A proxy in between may answer 200 with a page or object of its own.
        if job is not None and job.get("id") != identifier:
            raise self._statuses.unintelligible(identifier)
        return job

    def cancel(self, ref: JobRef) -> None:
        """Cancel a job; see the Protocol."""
        job = self._get(ref.id) if ref.backend == KIND and IDENTIFIER.fullmatch(ref.id) else None
        if job is None or jobs.state_of(job).is_finished:
            return
        try:
            self._service.repeat(f"{self._jobs}/{quote(ref.id)}/cancel", {})
        except StatusError:
            # Services refuse to cancel a job that has ended, with differing statuses; it may have ended just now.
            ended = self._get(ref.id)
            if ended is not None and not jobs.state_of(ended).is_finished:
                raise

    def _advice(self, error: StatusError) -> str:
        """Return that a model has to be deployed, where the service does not serve a tuned model by itself."""
        if error.status != 404 or not self._host.deploys:
            return ""
        return "; deploy the model under its own name, then run the same command again"

    def _wire_name(self, model: BaseModelRef) -> str:
        return resolved(model.name)

    def _answers(self, name: str, options: GenerateOptions, *, is_tuned: bool) -> Callable[[Conversation], str]:
        body = {"model": name, **_answer_fields(options)}

        def is_served_soon(error: Exception) -> bool:
            # Not every 404: a wrong address has that status too.
            is_missing = isinstance(error, StatusError) and error.status == 404 and "model" in str(error)
            return is_tuned and not self._host.deploys and is_missing

        def answer(conversation: Conversation) -> str:
            response = retry(
                lambda: self._answered({**body, "messages": messages(conversation)}),
                on=is_served_soon,
                attempts=SERVED_ATTEMPTS,
                within_s=SERVED_WITHIN_S,
                first_wait_s=1.0,
            )
            choices = response.get("choices") or [{}]
            content = (choices[0].get("message") or {}).get("content")  # None: the service withheld the answer
            if isinstance(content, list):  # parts, as in requests
                return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
            return str(content or "")

        return answer

    def _answered(self, body: Json) -> Json:
        """Request an answer, with its length in `max_tokens` or, if that is refused, in `max_completion_tokens`."""
        # In this order: a service that only knows the newer field refuses the older one, while a service that only
        # knows the older field may silently ignore the newer one.
        path = f"{self._prefix}/chat/completions"
        if self._section.api_version is not None:
            path = f"{self._prefix}/deployments/{quote(str(body['model']), safe='')}/chat/completions"
        length = self._length
        sent = {length if name == "max_tokens" else name: value for name, value in body.items()}
        try:
            return self._service.repeat(path, sent)
        except StatusError as error:
            if length != "max_tokens" or not is_unknown_field(error, length):
                raise
            self._length = "max_completion_tokens"
        return self._answered(body)


def _answer_fields(options: GenerateOptions) -> Json:
    """Translate generation options into fields of chat completions.

    Raises:
        InputError: the API does not support an option.
    """
    if options.top_k:
        raise InputError("backend openai: the API does not support top_k; set it to 0, or use backend=local")
    if len(options.stop_sequences) > MAX_STOPS:
        raise InputError(
            f"backend openai: {len(options.stop_sequences)} stop sequences; the API's limit is {MAX_STOPS}"
        )
    body: Json = {"max_tokens": options.max_output_tokens, "temperature": options.temperature}
    if options.temperature > 0:
        # Seeds of this machine's engine may be larger than the API allows.
        body |= {"seed": options.seed % (jobs.MAX_SEED + 1), "top_p": options.top_p}
    if options.stop_sequences:
        body["stop"] = list(options.stop_sequences)
    if options.json_schema is not None:
        form = {"name": "answer", "schema": json.loads(options.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


if TYPE_CHECKING:
    _conforms: Backend = OpenAIBackend(OpenAISection(kind="openai"))
