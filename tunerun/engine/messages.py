"""What the runner's process and the engine's process say to each other: one JSON document a line, no pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tunerun.job import (
    Answer,
    AnswerPart,
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    Example,
    Failure,
    Input,
    JobState,
    Likelihood,
    Prompt,
    Snapshot,
    TrainedOn,
    TuningRequest,
)


@dataclass(frozen=True)
class Prepare:
    """Make a base model ready; answered by Done or Refused."""

    model: BaseModelRef
    do: Literal["prepare"] = "prepare"


@dataclass(frozen=True)
class PackedJob:
    """One job of a pack."""

    job: str
    request: TuningRequest


@dataclass(frozen=True)
class Train:
    """Add jobs on one base model to the session's pack; each ends with JobEnded, and nothing else answers.

    All jobs of a command begin with the same step, as far as there is room; the others join as there is, in order.

    Attributes:
        most: training runs that share a pass at most, where that is less than the engine's settings allow.
        tuned_models: the folder in which each tuned model gets its own, named by its id.
        keep_cancelled: whether a job that is cancelled after its first step leaves a tuned model all the same.
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
        stream: whether the answers also come piece by piece, as Piece.
        one_by_one: whether each answer also comes as soon as it is whole, as Answered.
        all_or_none: whether one prompt that cannot be answered refuses them all, before any is answered.
        id: by which Cancel ends its answers before they are whole: all by `id`, one by `answer_id`.
    """

    model: BaseModelRef
    prompts: tuple[Prompt, ...]
    stream: bool = False
    one_by_one: bool = False
    all_or_none: bool = False
    id: str = ""
    do: Literal["generate"] = "generate"

    def answer_id(self, position: int) -> str:
        """Return by which Cancel ends the answer to one of the prompts."""
        return f"{self.id}.{position}"


@dataclass(frozen=True)
class Measure:
    """Say how likely a model is to give stated outputs as its answers; answered by Measured or Refused.

    Attributes:
        rows: each an input and the outputs to measure for it.
        adapter: the tuned model's folder; None: the base model is measured.
        examples: earlier turns before every input's own.
    """

    model: BaseModelRef
    rows: tuple[tuple[Input, tuple[str, ...]], ...]
    adapter: str | None = None
    examples: tuple[Example, ...] = ()
    do: Literal["measure"] = "measure"


@dataclass(frozen=True)
class Cancel:
    """Stop a job before its next step, or the answers of a Generate at the next token; not answered.

    It may come before the command that it is about.

    Attributes:
        pauses: whether the job will be continued, so that what it needs for that is kept.
    """

    job: str
    pauses: bool = False
    do: Literal["cancel"] = "cancel"


@dataclass(frozen=True)
class Started:
    """The engine has taken a command whose caller waits; if it dies now, that may be the command's fault."""

    report: Literal["started"] = "started"


@dataclass(frozen=True)
class RunBegan:
    """Jobs are trained from now on, all by one training run; if the engine dies now, that may be its fault."""

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
    """A job finished an epoch, and its loss on the held-out examples is measured."""

    job: str
    loss: EpochLoss
    report: Literal["epoch"] = "epoch"


@dataclass(frozen=True)
class EpochKept:
    """A job's tuned model as it was after an epoch is in its folder, and can be called."""

    job: str
    checkpoint: Checkpoint
    report: Literal["kept"] = "kept"


@dataclass(frozen=True)
class StateNotKept:
    """What a job needs to continue in another process cannot be written; it is trained all the same.

    Attributes:
        reason: the system's words.
    """

    job: str
    reason: str
    report: Literal["state not kept"] = "state not kept"


@dataclass(frozen=True)
class JobEnded:
    """A job is finished; its tuned model stands in its folder if it SUCCEEDED.

    Attributes:
        trained_on: None: its base model could not be loaded.
    """

    job: str
    state: JobState
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    trained_on: TrainedOn | None = None
    report: Literal["ended"] = "ended"


@dataclass(frozen=True)
class Piece:
    """The next part of an answer that is streamed.

    Attributes:
        position: which of Generate's prompts it answers, from 0.
    """

    position: int
    part: AnswerPart
    report: Literal["piece"] = "piece"


@dataclass(frozen=True)
class Refused:
    """A command could not be followed, or a prompt not be answered.

    Attributes:
        error: the name of an InputError's class if the user must act, else None.
        problems: one line each.
        traceback: what was raised, if it is nobody's known fault.
    """

    error: str | None
    problems: tuple[str, ...]
    traceback: str | None = None
    report: Literal["refused"] = "refused"


@dataclass(frozen=True)
class Answers:
    """For each of Generate's prompts, in order, its answer, or why it has none."""

    answers: tuple[Answer | Refused, ...]
    report: Literal["answers"] = "answers"


@dataclass(frozen=True)
class Answered:
    """An answer that is whole, while others of its Generate are not; Answers repeats it.

    Attributes:
        position: which of Generate's prompts it answers, from 0.
    """

    position: int
    answer: Answer
    report: Literal["answered"] = "answered"


@dataclass(frozen=True)
class Measured:
    """For each of Measure's rows, in order, for each of its outputs."""

    likelihoods: tuple[tuple[Likelihood, ...], ...]
    report: Literal["measured"] = "measured"


@dataclass(frozen=True)
class Done:
    """The command was followed."""

    report: Literal["done"] = "done"


Call = Prepare | Generate | Measure
"""A command whose caller waits for its report."""

Command = Call | Train | Cancel
JobReport = SnapshotTaken | EpochMeasured | EpochKept | StateNotKept | JobEnded
"""A report of one job of the pack; it may come while a call is followed."""

Report = Started | RunBegan | JobReport | Piece | Answered | Answers | Measured | Refused | Done

FINAL = (Done, Refused, Answers, Measured)
"""The reports with which a command is over."""


@dataclass(frozen=True)
class _SharedTrain:
    """Train as it is sent: trials of one sweep have the same examples, which are written once.

    Attributes:
        train: its requests have no examples.
        examples: all that there are.
        places: of each job its training and its validation examples among them.
    """

    train: Train
    examples: tuple[tuple[Example, ...], ...]
    places: tuple[tuple[int, int], ...]
    do: Literal["shared train"] = "shared train"

    @classmethod
    def of(cls, train: Train) -> _SharedTrain:
        """Return what is sent; examples are the same if they are one object, so none is compared."""
        found: dict[int, tuple[int, tuple[Example, ...]]] = {}

        def place(examples: tuple[Example, ...]) -> int:
            return found.setdefault(id(examples), (len(found), examples))[0]

        places = tuple((place(one.request.training), place(one.request.validation)) for one in train.pack)
        pack = tuple(replace(one, request=replace(one.request, training=(), validation=())) for one in train.pack)
        return cls(replace(train, pack=pack), tuple(examples for _, examples in found.values()), places)

    @property
    def whole(self) -> Train:
        """What was sent; jobs share their examples."""
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
    """Return a command for another place, with each folder that it names as it is called there."""

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
    if isinstance(command, Measure):
        return replace(command, adapter=moved(command.adapter))
    return command


def command_line(command: Command) -> bytes:
    """Return a command as one line of JSON."""
    return _COMMAND.dump_json(_SharedTrain.of(command) if isinstance(command, Train) else command) + b"\n"


def read_command(line: bytes) -> Command:
    """Read what `command_line` wrote."""
    found = _COMMAND.validate_json(line)
    return found.whole if isinstance(found, _SharedTrain) else found


def report_line(report: Report) -> bytes:
    """Return a report as one line of JSON."""
    return _REPORT.dump_json(report) + b"\n"


def read_report(line: bytes) -> Report:
    """Read what `report_line` wrote."""
    return _REPORT.validate_json(line)
