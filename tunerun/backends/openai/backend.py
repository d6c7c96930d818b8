"""The backend: jobs at a service that speaks OpenAI's fine-tuning methods."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.backends.hosted import HostedBackend
from tunerun.backends.http import ApiKey, Json, JsonService
from tunerun.backends.openai import curves, jobs
from tunerun.backends.openai.curves import Curve
from tunerun.backends.openai.files import IDENTIFIER, TrainingFiles, content_of, messages, pages
from tunerun.backends.openai.refusals import is_unknown_field, refusal
from tunerun.backends.openai.section import KIND, OpenAISection, capabilities
from tunerun.errors import AmbiguousError, BaseModelError, InputError, StatusError, UnavailableError
from tunerun.examples import Conversation
from tunerun.generation import GenerateOptions
from tunerun.interpolation import resolved
from tunerun.job import (
    BaseModelRef,
    Checkpoint,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    TunedModel,
    TuningRequest,
)
from tunerun.retry import retry

PAGE = 100
"""Page size of list requests; the SDK states no limit for jobs."""

FEW = 2
"""Up to this many jobs are polled one by one; for more, the list of all jobs is read."""

LOOKED_AT = 1000
"""How many of the newest jobs are searched for a suffix, at a service that does not keep metadata."""

SERVED_WITHIN_S, SERVED_ATTEMPTS = 30.0, 6
"""Seconds to retry a tuned model that is not served yet: services take some seconds after the job has succeeded."""

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
        self._curves: dict[str, Curve] = {}
        self._ended: dict[str, JobStatus] = {}

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
            known = self._listed_models()
            problem = f"at {self._base_url}: the model does not exist, or the key may not use it; available:"
            raise BaseModelError([f"model.name: {name} {problem} {known}" for name in missing])

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
        with self._submitting:
            if (there := self.find(request.key, request.tuned_model_id)) is not None:
                return there
            try:
                created = self._created(request)
            except AmbiguousError:
                # The service may have created the job and lost the answer: look before the runner asks again.
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
        suffix = jobs.suffix_of(key, tuned_model_id)
        for job in self._candidates(key):
            if jobs.is_of(job, key, suffix) and jobs.state_of(job) not in _ENDED_BADLY:
                return JobRef(KIND, self._id_of(job))
        return None

    def _candidates(self, key: str) -> list[Json]:
        """Return jobs that may belong to a key: by metadata, or the newest if the service may not keep metadata."""
        try:
            marked = self._newest(**{f"metadata[{jobs.KEY}]": key})
        except StatusError as error:
            if error.status not in (400, 422):  # a service that does not know the filter refuses it
                raise
            marked = []
        if self._keeps_metadata or any(jobs.keeps_metadata(job) for job in marked):
            return marked
        return [*marked, *self._newest()]

    def _newest(self, **filters: str) -> list[Json]:
        """Return the newest jobs, up to the first with our metadata: a service that keeps them also filters by them."""
        found = []
        for job in itertools.islice(pages(self._service, self._jobs, limit=PAGE, **filters), LOOKED_AT):
            if not filters and jobs.keeps_metadata(job):
                self._keeps_metadata = True
                break
            found.append(job)
        return found

    @staticmethod
    def _id_of(job: Json) -> str:
        identifier = str(job.get("id", ""))
        if not IDENTIFIER.fullmatch(identifier):
            raise UnavailableError("a job of the service has no id; is backend.base_url an address of OpenAI's API?")
        return identifier

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Request the jobs (a page of the list for many), and for each running job its new events; see the Protocol."""
        wanted = {ref.id: ref for ref in refs if ref.backend == KIND and IDENTIFIER.fullmatch(ref.id)}
        statuses = {ref: JobStatus(JobState.FAILED, failure=_LOST) for ref in refs}
        with self._reading:
            statuses.update({wanted[i]: self._ended[i] for i in wanted if i in self._ended})
            missing = wanted.keys() - self._ended.keys()
            found: dict[str, Json] = {}
            if len(missing) > FEW:
                for job in pages(self._service, self._jobs, limit=PAGE):
                    if job.get("id") in missing:
                        found[str(job["id"])] = job
                    if len(found) == len(missing):
                        break
            # A job that the list does not have is requested by itself before it counts as lost: a list may be capped.
            for identifier in missing - found.keys():
                if (one := self._get(identifier)) is not None:
                    found[identifier] = one
            for identifier, job in found.items():
                statuses[wanted[identifier]] = self._status(job)
        return {ref: status.after(after.get(ref, 0)) for ref, status in statuses.items()}

    def _get(self, identifier: str) -> Json | None:
        try:
            found = self._service.get(f"{self._jobs}/{quote(identifier)}")
        except StatusError as error:
            if error.status == 404:
                return None
            raise
        if found.get("id") != identifier:
            raise self._unintelligible(identifier)
        return found

    def _unintelligible(self, identifier: str) -> UnavailableError:
        return UnavailableError(f"{identifier} at {self._base_url}: the answer is not a job of OpenAI's API")

    def _status(self, job: Json) -> JobStatus:
        """Translate a job, with its events and, once it has succeeded, its checkpoints and result files."""
        try:
            identifier, state = self._id_of(job), jobs.state_of(job)
            if state is JobState.QUEUED:
                return JobStatus(state)
            curve = self._curves.setdefault(identifier, Curve())
            self._read_events(identifier, curve)
            has_succeeded = state is JobState.SUCCEEDED
            checkpoints = self._checkpoints(identifier) if has_succeeded else []
            if has_succeeded:
                curve.add(curves.of_checkpoints(checkpoints))
                self._read_results(job, curve)
            epochs = jobs.epochs_of(job) or (1 if state.is_finished else None)
            total = curve.total(jobs.steps_of(job), is_whole=has_succeeded)
            status = JobStatus(state)
            # Services report steps alone; without the job's epochs and steps no snapshot can say its epoch.
            if epochs is not None and total is not None:
                ended_at = float(job.get("finished_at") or job.get("created_at") or 0)
                named = [(int(each["step_number"]), str(each["fine_tuned_model_checkpoint"])) for each in checkpoints]
                kept = sorted((curve.epoch_of(step, epochs, total), step, name) for step, name in named)
                status = replace(
                    status,
                    snapshots=curve.snapshots(epochs, total, ended_at, is_whole=state.is_finished),
                    validation=curve.validation(epochs, total),
                    checkpoints=tuple(Checkpoint(*each) for each in kept),
                )
            status = self._with_end(status, job, curve)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._unintelligible(str(job.get("id"))) from error
        if state.is_finished:
            self._ended[identifier] = status
            del self._curves[identifier]
        return status

    @staticmethod
    def _with_end(status: JobStatus, job: Json, curve: Curve) -> JobStatus:
        """Return a status with the outcome of a finished job."""
        if status.state is JobState.FAILED:
            return replace(status, failure=jobs.failure_of(job))
        if status.state is not JobState.SUCCEEDED:
            return status
        metrics = {"validation/loss": status.validation[-1].loss} if status.validation else {}
        ended_at = float(job.get("finished_at") or 0)
        if curve.first_at is not None and ended_at > curve.first_at:
            metrics["train/seconds"] = ended_at - curve.first_at
        base = BaseModelRef(name=str(job["model"]), source=str(job["model"]))
        tuned = TunedModel(
            jobs.tuned_model_name(job), base, str(job["fine_tuned_model"]), checkpoints=status.checkpoints
        )
        return replace(status, metrics=metrics, tuned_model=tuned)

    def _read_events(self, identifier: str, curve: Curve) -> None:
        """Read new events: backwards until a known one, or, where the list is ascending, after the newest known one."""
        parameters: dict[str, str | int] = {"limit": PAGE}
        if curve.is_ascending and curve.newest is not None:
            parameters["after"] = curve.newest
        read: list[Json] = []
        for event in pages(self._service, f"{self._jobs}/{quote(identifier)}/events", **parameters):
            if str(event.get("id")) in curve.seen:
                if not curve.is_ascending:
                    break
                continue
            read.append(event)
        times = [event.get("created_at") or 0 for event in read]
        if read and times[0] < times[-1]:
            curve.is_ascending = True
        if read:
            curve.newest = str(read[-1 if curve.is_ascending else 0].get("id"))
        curve.seen.update(str(event.get("id")) for event in read)
        curve.add(curves.of_events(read))

    def _checkpoints(self, identifier: str) -> list[Json]:
        try:
            return list(pages(self._service, f"{self._jobs}/{quote(identifier)}/checkpoints", limit=PAGE))
        except StatusError as error:
            if error.status in (404, 405):  # some services do not have checkpoints
                return []
            raise

    def _read_results(self, job: Json, curve: Curve) -> None:
        """Complete a curve from the job's result files; a deleted file adds nothing."""
        for identifier in job.get("result_files") or ():
            try:
                curve.add(
                    curves.of_file(self._service.content(f"{self._prefix}/files/{quote(str(identifier))}/content"))
                )
            except StatusError as error:
                if error.status != 404:
                    raise

    def cancel(self, ref: JobRef) -> None:
        """Cancel a job; no effect on one that has already ended."""
        job = self._get(ref.id) if ref.backend == KIND and IDENTIFIER.fullmatch(ref.id) else None
        if job is None or jobs.state_of(job).is_finished:
            return
        try:
            self._service.repeat(f"{self._jobs}/{quote(ref.id)}/cancel", {})
        except StatusError:
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
            is_missing = isinstance(error, StatusError) and error.status == 404 and "model" in str(error)
            return is_tuned and not self._host.deploys and is_missing

        def answer(asked: Conversation) -> str:
            found = retry(
                lambda: self._answered({**body, "messages": messages(asked)}),
                on=is_served_soon,
                attempts=SERVED_ATTEMPTS,
                within_s=SERVED_WITHIN_S,
                first_wait_s=1.0,
            )
            choices = found.get("choices") or [{}]
            content = (choices[0].get("message") or {}).get("content")  # None: the service withheld the answer
            if isinstance(content, list):
                return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
            return str(content or "")

        return answer

    def _answered(self, body: Json) -> Json:
        """Request an answer, with its length limited by `max_tokens` or, if that is refused, `max_completion_tokens`.

        In this order, because a service that only knows the newer field refuses the older one, while a service that
        only knows the older field may silently ignore the newer one.
        """
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
        body |= {"seed": options.seed % (jobs.MAX_SEED + 1), "top_p": options.top_p}
    if options.stop_sequences:
        body["stop"] = list(options.stop_sequences)
    if options.json_schema is not None:
        form = {"name": "answer", "schema": json.loads(options.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


if TYPE_CHECKING:
    _conforms: Backend = OpenAIBackend(OpenAISection(kind="openai"))
