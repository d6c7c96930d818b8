"""A scripted backend, to test the code that uses backends. It does not train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.errors import BackendError
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


def _succeeds(_request: TuningRequest) -> Failure | None:
    return None


def _echoes(_model: BaseModelRef | TunedModel, text: str) -> str:
    return text


@dataclass
class ScriptedService:
    """The state of a simulated service: its jobs by key. It outlives the backends that use it.

    Attributes:
        outcome: returns why a job fails, from its request; None: it succeeds.
        answers: returns a model's answer to an input.
        answers_after: returns the answer to an input that follows examples; None: examples are ignored.
        answers_conversation: returns the answer to a conversation with a system message or earlier turns, including
            examples; None: only the last message counts.
        steps_per_poll: how many steps a job advances with each poll.
        submitted: the keys of all started jobs, in order.
        generated: number of inputs answered.
    """

    outcome: Outcome = _succeeds
    answers: Answers = _echoes
    answers_after: AnswersAfter | None = None
    answers_conversation: AnswersConversation | None = None
    steps_per_poll: int = 1_000_000
    submitted: list[str] = field(default_factory=list)
    generated: int = 0
    jobs: dict[str, _Job] = field(default_factory=dict)


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

    def epoch_losses(self) -> Iterator[EpochLoss]:
        for epoch in range(1, self.steps_taken // self.steps_per_epoch + 1):
            yield EpochLoss(epoch, 1 / (epoch * self.steps_per_epoch))


class ScriptedBackend:
    """A backend on a `ScriptedService`; a job's losses at step n are 1/n, at the time n seconds after 1970."""

    def __init__(self, service: ScriptedService, max_in_flight: int = 4) -> None:
        self._service = service
        self._max_in_flight = max_in_flight

    def capabilities(self) -> Capabilities:
        """Return the capabilities of a hosted service without limits."""
        return Capabilities(
            kind="scripted",
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
        """Accept every base model."""

    def submit(self, request: TuningRequest) -> JobRef:
        """Start a job, unless one with the same key exists that has not failed."""
        job = self._service.jobs.get(request.key)
        if job is None or job.failure is not None or job.is_cancelled:
            self._service.submitted.append(request.key)
            self._service.jobs[request.key] = _Job(request)
        return JobRef("scripted", request.key)

    def find(self, key: str, tuned_model_id: str) -> JobRef | None:  # noqa: ARG002 - known by its key alone
        """Return the job of a key, unless it failed or was cancelled."""
        job = self._service.jobs.get(key)
        is_kept = job is not None and job.failure is None and not job.is_cancelled
        return JobRef("scripted", key) if is_kept else None

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        """Advance each job by some steps, and return its new status."""
        return {ref: self._status(ref).after(after.get(ref, 0)) for ref in refs}

    def _status(self, ref: JobRef) -> JobStatus:
        job = self._service.jobs.get(ref.id)
        if job is None:
            return JobStatus(JobState.FAILED, failure=Failure(FailureKind.LOST, "the service does not know the job"))
        job.steps_taken = min(job.steps, job.steps_taken + self._service.steps_per_poll)
        snapshots = tuple(
            Snapshot(step, (step - 1) // job.steps_per_epoch + 1, 1 / step, float(step))
            for step in range(1, job.steps_taken + 1)
        )
        losses = tuple(job.epoch_losses()) if job.request.validation else ()
        if job.is_cancelled:
            return JobStatus(JobState.CANCELLED, snapshots, validation=losses)
        if job.steps_taken < job.steps:
            return JobStatus(JobState.RUNNING, snapshots, validation=losses)
        job.failure = self._service.outcome(job.request)
        if job.failure is not None:
            return JobStatus(JobState.FAILED, snapshots, failure=job.failure, validation=losses)
        name = f"tunedModels/{job.request.tuned_model_id}"
        metrics = {"train/seconds": float(job.steps)}
        if job.request.validation:
            metrics |= {"validation/loss": 1 / job.steps, "validation/base_loss": 2.0}
        tuned = TunedModel(name, job.request.model, name)
        return JobStatus(JobState.SUCCEEDED, snapshots, metrics, tuned, validation=losses)

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
        """Answer by the script; an error of the script becomes a BackendError, as of a service."""
        self._service.generated += len(inputs)
        try:
            return [self._answer(model, asked, examples) for asked in inputs]
        except LookupError as error:
            raise BackendError(f"the service has no answer: {error}") from error

    def _answer(self, model: BaseModelRef | TunedModel, asked: Input, examples: Sequence[Example]) -> str:
        service, text = self._service, as_conversation(asked).text_input
        if not isinstance(asked, str) and service.answers_conversation is not None:
            return service.answers_conversation(model, as_conversation(behind_examples(asked, examples)))
        if examples and service.answers_after is not None:
            return service.answers_after(model, text, tuple(examples))
        return service.answers(model, text)

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
