"""A scripted backend, to test the code that uses backends. It does not train."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.errors import BackendError, InputError
from tunerun.examples import Conversation, Example, Input, as_conversation, behind_examples
from tunerun.generation import GenerateOptions
from tunerun.job import (
    LATER_HYPERPARAMETERS,
    BaseModelRef,
    EpochLoss,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TunedModel,
    TuningRequest,
)

Outcome = Callable[[TuningRequest], Failure | None]
Answers = Callable[[BaseModelRef | TunedModel, str], str]
AnswersConversation = Callable[[BaseModelRef | TunedModel, Conversation], str]
AnswersAfter = Callable[[BaseModelRef | TunedModel, str, tuple[Example, ...]], str]


@dataclass
class ScriptedService:
    """The state of a simulated service: its jobs by key. It outlives the backends that use it.

    Attributes:
        outcome: returns why a job fails, from its request; None: it succeeds.
        answers: returns a model's answer to an input.
        answers_after: returns the answer to an input that follows examples; None: examples are ignored.
        answers_conversation: returns the answer to a conversation with a system message or earlier turns, including
            examples; None: only the last message counts.
        steps_per_poll: how many steps a job advances with each poll; by default its first poll finishes it.
        missing_models: names of the base models that the service does not have.
        submitted: the keys of all started jobs, in order.
        generated: number of inputs answered.
        jobs: the last job of each key.
        lock: held while a job is started, so that threads that submit the same key start one.
    """

    outcome: Outcome = lambda _request: None
    answers: Answers = lambda _model, text: text
    answers_after: AnswersAfter | None = None
    answers_conversation: AnswersConversation | None = None
    steps_per_poll: int = 1_000_000
    missing_models: Collection[str] = ()
    submitted: list[str] = field(default_factory=list)
    generated: int = 0
    jobs: dict[str, _Job] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


@dataclass
class _Job:
    request: TuningRequest
    steps_taken: int = 0
    failure: Failure | None = None
    is_cancelled: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.request.training) // self.request.hyperparameters.batch_size)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.request.hyperparameters.epoch_count

    @property
    def is_kept(self) -> bool:
        """Whether the key's next submit returns this job, rather than starting another one."""
        return self.failure is None and not self.is_cancelled


class ScriptedBackend:
    """A backend on a `ScriptedService`; a job's losses at step n are 1/n, at the time n seconds after 1970.

    Args:
        service: has the jobs. Backends that share it find each other's jobs.
        max_in_flight: most jobs that run at the same time.
        kind: as in `backend.kind`.
    """

    def __init__(self, service: ScriptedService, max_in_flight: int = 4, kind: str = "scripted") -> None:
        self._service = service
        self._max_in_flight = max_in_flight
        self._kind = kind

    def capabilities(self) -> Capabilities:
        """Return the capabilities of a hosted service without limits."""
        return Capabilities(
            kind=self._kind,
            address="",
            max_input_characters=None,
            max_output_characters=None,
            source="the script",
            max_in_flight=self._max_in_flight,
            survives_runner=True,
            is_hosted=True,
            has_prices=False,
            trains_exact_prefixes=True,
            precision="",
            measures_epochs=True,
            keeps_best=True,
            measures_losses=True,
            trains_conversations=True,
            hyperparameters=LATER_HYPERPARAMETERS,
        )

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        """Refuse the base models that the service does not have."""
        missing = [model.name for model in models if model.name in self._service.missing_models]
        if missing:
            raise InputError([f"{name}: the service does not have this base model" for name in missing])

    def submit(self, request: TuningRequest) -> JobRef:
        """Start a job, unless one with the same key exists that has not failed."""
        with self._service.lock:
            job = self._service.jobs.get(request.key)
            if job is None or not job.is_kept:
                self._service.submitted.append(request.key)
                self._service.jobs[request.key] = _Job(request)
        return JobRef(self._kind, request.key)

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:  # noqa: ARG002 - known by its key alone
        """Return the job of a key, unless it failed or was cancelled."""
        job = self._service.jobs.get(key)
        return JobRef(self._kind, key) if job is not None and job.is_kept else None

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Advance each job by some steps, and return its new status."""
        return {ref: self._status(ref).after(after.get(ref, 0)) for ref in refs}

    def _status(self, ref: JobRef) -> JobStatus:
        job = self._service.jobs.get(ref.id) if ref.backend == self._kind else None
        if job is None:
            return JobStatus(JobState.FAILED, failure=Failure(FailureKind.LOST, "the service does not know the job"))
        job.steps_taken = min(job.steps, job.steps_taken + self._service.steps_per_poll)
        snapshots = tuple(
            Snapshot(step, (step - 1) // job.steps_per_epoch + 1, 1 / step, float(step))
            for step in range(1, job.steps_taken + 1)
        )
        status = JobStatus(JobState.RUNNING, snapshots)
        if job.request.validation:
            ends = range(job.steps_per_epoch, job.steps_taken + 1, job.steps_per_epoch)
            status = replace(status, validation=tuple(EpochLoss(n, 1 / step) for n, step in enumerate(ends, start=1)))
        if job.is_cancelled:
            return replace(status, state=JobState.CANCELLED)
        if job.steps_taken < job.steps:
            return status

        job.failure = self._service.outcome(job.request)
        if job.failure is not None:
            return replace(status, state=JobState.FAILED, failure=job.failure)
        name = f"tunedModels/{job.request.tuned_model_id}"
        metrics = {"train/seconds": float(job.steps)}
        if job.request.validation:
            # The base model's loss is above all of the job's, so that every tuned model is better.
            metrics |= {"validation/loss": 1 / job.steps, "validation/base_loss": 2.0}
        tuned = TunedModel(name, job.request.model, name)
        return replace(status, state=JobState.SUCCEEDED, metrics=metrics, tuned_model=tuned)

    def cancel(self, ref: JobRef) -> None:
        """Cancel a running job."""
        job = self._service.jobs.get(ref.id)
        if job is not None and job.steps_taken < job.steps:
            job.is_cancelled = True

    def generate(  # the script's answers do not depend on the options
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,  # noqa: ARG002
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Answer by the script; a LookupError of the script becomes a BackendError, as of a service."""
        if isinstance(model, BaseModelRef):
            self.prepare([model])
        service, answers = self._service, []
        service.generated += len(inputs)
        try:
            for each in inputs:
                text = as_conversation(each).text_input
                if not isinstance(each, str) and service.answers_conversation is not None:
                    whole = as_conversation(behind_examples(each, examples))
                    answers.append(service.answers_conversation(model, whole))
                elif examples and service.answers_after is not None:
                    answers.append(service.answers_after(model, text, tuple(examples)))
                else:
                    answers.append(service.answers(model, text))
        except LookupError as error:
            raise BackendError(f"the service has no answer: {error}") from error
        return answers

    def losses(
        self,
        model: BaseModelRef | TunedModel,
        rows: Sequence[Example],
        examples: Sequence[Example] = (),
    ) -> list[float]:
        """Return a loss of 0 for each row that the model would answer correctly, else 1."""
        answers = self.generate(model, [row.input for row in rows], GenerateOptions(), examples)
        return [float(answer != row.output) for answer, row in zip(answers, rows, strict=True)]

    def choose(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        choices: Sequence[str],
        examples: Sequence[Example] = (),
    ) -> list[str]:
        """Return the model's answer if it is one of the choices, else the first choice."""
        answers = self.generate(model, inputs, GenerateOptions(), examples)
        return [answer if answer in choices else choices[0] for answer in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: the backend holds no resources."""


if TYPE_CHECKING:
    _conforms: Backend = ScriptedBackend(ScriptedService())
