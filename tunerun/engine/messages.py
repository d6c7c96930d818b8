"""The messages between the runner's process and the engine's process: one JSON document on each line.

A command has the field `do`, a report the field `report`, whose constant identifies the class. No pickle, because
reading one can run code.

    command                              reports
    Prepare, Generate, MeasureLosses     Started; Piece and Answered if Generate asks for them; one of FINAL
    Train                                RunBegan for each training run; the JobReports of each job, last JobEnded
    Cancel                               none of its own

A call is executed between two steps of the pack, and a job of the pack that is cancelled then ends at once. So a
JobReport may come between the reports of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tunerun.examples import Example, Input
from tunerun.generation import Answer, AnswerPart, Likelihood, Prompt
from tunerun.job import BaseModelRef, Checkpoint, EpochLoss, Failure, JobState, Snapshot, TrainedOn, TuningRequest


@dataclass(frozen=True)
class Prepare:
    """Prepare a base model; answered by Done or Refused."""

    model: BaseModelRef
    do: Literal["prepare"] = "prepare"


@dataclass(frozen=True)
class PackedJob:
    """A job of a pack.

    Attributes:
        job: its id.
        request: the training to do.
    """

    job: str
    request: TuningRequest


@dataclass(frozen=True)
class Train:
    """Add jobs on one base model to the session's pack. There is no answer to the command; each job gets a JobEnded.

    Jobs of a command start with the same step as far as the pack has room; the others join later, in order.

    Attributes:
        pack: the jobs.
        tuned_models: the folder in which each tuned model gets a folder named by its id.
        keep_cancelled: whether a job that is cancelled after its first step gets a tuned model too.
        most: the most training runs in a pass; None, or a larger number than the engine's settings allow: these decide.
    """

    pack: tuple[PackedJob, ...]
    tuned_models: str
    keep_cancelled: bool = False
    most: int | None = None
    do: Literal["train"] = "train"


@dataclass(frozen=True)
class Generate:
    """Answer prompts with one base model and its tuned models, in shared batches; answered by Answers or Refused.

    Attributes:
        model: the base model.
        prompts: each with its own options and tuned model.
        stream: whether parts of answers are also reported as they are generated, as Piece.
        one_by_one: whether each answer is also reported as soon as it is complete, as Answered.
        all_or_none: whether the command is refused, before any answer, if one prompt cannot be answered.
        id: for Cancel: `id` ends all answers, `answer_id` one of them.
    """

    model: BaseModelRef
    prompts: tuple[Prompt, ...]
    stream: bool = False
    one_by_one: bool = False
    all_or_none: bool = False
    id: str = ""
    do: Literal["generate"] = "generate"

    def answer_id(self, position: int) -> str:
        """Return the id with which Cancel ends the answer to one of the prompts; positions are from 0."""
        return f"{self.id}.{position}"


@dataclass(frozen=True)
class MeasureLosses:
    """Measure the likelihood of stated outputs as a model's answers; answered by Measured or Refused.

    Attributes:
        model: the base model.
        rows: each an input and the outputs to measure for it.
        adapter: the tuned model's folder; None: the base model itself.
        examples: earlier turns to put before those of every input.
    """

    model: BaseModelRef
    rows: tuple[tuple[Input, tuple[str, ...]], ...]
    adapter: str | None = None
    examples: tuple[Example, ...] = ()
    do: Literal["measure"] = "measure"


@dataclass(frozen=True)
class Cancel:
    """Cancel a job before its next step, or answers of a Generate at the next token. There is no answer to it.

    It may arrive before the command that it refers to.

    Attributes:
        job: the job's id, or the id of answers.
        pauses: whether the job will be resumed, so that its state is kept.
    """

    job: str
    pauses: bool = False
    do: Literal["cancel"] = "cancel"


@dataclass(frozen=True)
class Started:
    """The engine starts to execute a call; if it dies now, the call may be the cause."""

    report: Literal["started"] = "started"


@dataclass(frozen=True)
class RunBegan:
    """Jobs start training in one training run; if the engine dies now, that run may be the cause."""

    jobs: tuple[str, ...]
    report: Literal["began"] = "began"


@dataclass(frozen=True)
class SnapshotTaken:
    """A job took an optimiser step."""

    job: str
    snapshot: Snapshot
    report: Literal["snapshot"] = "snapshot"


@dataclass(frozen=True)
class EpochMeasured:
    """A job's validation loss after an epoch was measured."""

    job: str
    loss: EpochLoss
    report: Literal["epoch"] = "epoch"


@dataclass(frozen=True)
class EpochKept:
    """A job's tuned model after an epoch was written to its folder, and can be called."""

    job: str
    checkpoint: Checkpoint
    report: Literal["kept"] = "kept"


@dataclass(frozen=True)
class StateNotKept:
    """A job's state for resuming in another process cannot be written; its training continues.

    Attributes:
        job: its id.
        reason: the operating system's message.
    """

    job: str
    reason: str
    report: Literal["state not kept"] = "state not kept"


@dataclass(frozen=True)
class JobEnded:
    """A job has ended; if it SUCCEEDED, its tuned model is complete in its folder.

    Attributes:
        job: its id.
        state: SUCCEEDED, FAILED or CANCELLED.
        metrics: see `JobStatus.metrics`.
        failure: why it FAILED; None otherwise.
        trained_on: the hardware and software that trained it; None: its base model could not be loaded.
    """

    job: str
    state: JobState
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    trained_on: TrainedOn | None = None
    report: Literal["ended"] = "ended"


@dataclass(frozen=True)
class Piece:
    """The next part of a streamed answer.

    Attributes:
        position: of the prompt in Generate, from 0.
        part: text and scores that no earlier part contains.
    """

    position: int
    part: AnswerPart
    report: Literal["piece"] = "piece"


@dataclass(frozen=True)
class Refused:
    """A call failed, or a prompt cannot be answered.

    Attributes:
        error: the name of the class of the InputError if the user has to act; None: an unexpected exception.
        problems: one line each.
        traceback: of an unexpected exception.
    """

    error: str | None
    problems: tuple[str, ...]
    traceback: str | None = None
    report: Literal["refused"] = "refused"


@dataclass(frozen=True)
class Answers:
    """For each of Generate's prompts, in order, its answer or the reason why there is none."""

    answers: tuple[Answer | Refused, ...]
    report: Literal["answers"] = "answers"


@dataclass(frozen=True)
class Answered:
    """A complete answer, reported before all answers of its Generate are complete; Answers will repeat it.

    Attributes:
        position: of the prompt in Generate, from 0.
        answer: to that prompt.
    """

    position: int
    answer: Answer
    report: Literal["answered"] = "answered"


@dataclass(frozen=True)
class Measured:
    """The likelihood for each of MeasureLosses' rows and each of the row's outputs, in order."""

    likelihoods: tuple[tuple[Likelihood, ...], ...]
    report: Literal["measured"] = "measured"


@dataclass(frozen=True)
class Done:
    """The call was executed."""

    report: Literal["done"] = "done"


Call = Prepare | Generate | MeasureLosses
"""A command whose caller waits for a report."""

Command = Call | Train | Cancel
JobReport = SnapshotTaken | EpochMeasured | EpochKept | StateNotKept | JobEnded
"""A report of one job of the pack; it may come while a call is executed."""

Report = Started | RunBegan | JobReport | Piece | Answered | Answers | Measured | Refused | Done

FINAL = (Done, Refused, Answers, Measured)
"""The last report of every call is one of these."""


@dataclass(frozen=True)
class _SharedTrain:
    """The form of Train that is sent: examples that several jobs share are written only once.

    Attributes:
        train: the command, without examples in its requests.
        examples: all distinct sequences of examples.
        places: for each job the indices of its training and its validation examples in `examples`.
    """

    train: Train
    examples: tuple[tuple[Example, ...], ...]
    places: tuple[tuple[int, int], ...]
    do: Literal["shared train"] = "shared train"

    @classmethod
    def of(cls, train: Train) -> _SharedTrain:
        """Return what is sent for a command."""
        # Compared by identity: trials of a sweep share their examples, and comparing contents would take long.
        distinct: dict[int, tuple[int, tuple[Example, ...]]] = {}

        def place(examples: tuple[Example, ...]) -> int:
            return distinct.setdefault(id(examples), (len(distinct), examples))[0]

        places = tuple((place(one.request.training), place(one.request.validation)) for one in train.pack)
        pack = tuple(replace(one, request=replace(one.request, training=(), validation=())) for one in train.pack)
        return cls(replace(train, pack=pack), tuple(examples for _, examples in distinct.values()), places)

    @property
    def whole(self) -> Train:
        """The original command; jobs with equal examples share one object."""
        pack = tuple(
            replace(
                one,
                request=replace(one.request, training=self.examples[training], validation=self.examples[validation]),
            )
            for one, (training, validation) in zip(self.train.pack, self.places, strict=True)
        )
        return replace(self.train, pack=pack)


_Sent = Call | _SharedTrain | Cancel
_COMMAND: TypeAdapter[_Sent] = TypeAdapter(Annotated[_Sent, Field(discriminator="do")])
_REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="report")])


def with_folders(command: Command, of: Callable[[str], str]) -> Command:
    """Return a command with every folder in it replaced.

    Args:
        command: any command.
        of: returns the new folder for an old one.
    """

    def moved(folder: str | None) -> str | None:
        return None if folder is None else of(folder)

    if isinstance(command, Train):
        pack = tuple(
            replace(packed, request=replace(packed.request, start_from=moved(packed.request.start_from)))
            for packed in command.pack
        )
        return replace(command, pack=pack, tuned_models=of(command.tuned_models))
    if isinstance(command, Generate):
        return replace(command, prompts=tuple(replace(each, adapter=moved(each.adapter)) for each in command.prompts))
    if isinstance(command, MeasureLosses):
        return replace(command, adapter=moved(command.adapter))
    return command


def command_line(command: Command) -> bytes:
    """Return a command as one line of JSON.

    Raises:
        ValueError: a text of the command cannot be written as UTF-8.
    """
    return _COMMAND.dump_json(_SharedTrain.of(command) if isinstance(command, Train) else command) + b"\n"


def read_command(line: bytes) -> Command:
    """Read a line that `command_line` wrote.

    Raises:
        ValueError: the line is not a command.
    """
    command = _COMMAND.validate_json(line)
    return command.whole if isinstance(command, _SharedTrain) else command


def report_line(report: Report) -> bytes:
    """Return a report as one line of JSON."""
    return _REPORT.dump_json(report) + b"\n"


def read_report(line: bytes) -> Report:
    """Read a line that `report_line` wrote.

    Raises:
        ValueError: the line is not a report.
    """
    return _REPORT.validate_json(line)
