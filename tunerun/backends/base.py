"""The Protocol every backend implements, and what a backend can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Protocol, Self, runtime_checkable

from tunerun.engine.settings import EngineSettings
from tunerun.errors import InputError
from tunerun.job import (
    BaseModelRef,
    Example,
    GenerateOptions,
    Input,
    JobRef,
    JobStatus,
    ModelInputs,
    TunedModel,
    TuningRequest,
)


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do and its limits, made from its config section: nothing is opened or asked.

    Attributes:
        kind: `local`, `gemini`, `vertex` or `openai`; part of every trial's key.
        address: where it listens, part of every trial's key; empty for the embedded engine.
        max_input_characters: of one example's input, with its system message and earlier turns; None: no limit.
        max_output_characters: of one example's `output`; None: no limit.
        source: the document that states the limits, with its date.
        max_in_flight: the most jobs that are submitted to it at once.
        survives_runner: whether a job continues when the process that submitted it ends.
        outlives_kill: whether a job may continue for a while when that process is killed, and be found again; when the
            process ends in another way, the job ends with it.
        is_hosted: whether base models live at a service, where their name is all that is known of them; else their
            files are on this machine, and their content identifies them.
        has_prices: whether tuning there may cost money.
        trains_exact_prefixes: whether fewer epochs are bit for bit the first epochs of more.
        precision: number format of the frozen weights, part of every trial's key; empty: the service's choice.
        poll_interval_s: seconds between two polls of the running jobs.
        max_training_bytes: of all training examples as they are sent; None: no limit.
        min_examples: the fewest training examples of a job.
        measures_epochs: whether it measures the loss on held-out examples after each epoch.
        keeps_best: whether the tuned model can be that of the epoch with the lowest loss on held-out examples.
        takes_learning_rate: whether it takes a learning rate as it is; else only a multiplier of one of its own.
        measures_losses: whether it can say how likely stated outputs are: `losses` and `choose` are there.
        trains_conversations: whether it tunes on examples with a system message or earlier turns, and not only on an
            input and its output.
        not_taken: keys of the config that the service does not support, so that they cannot be swept.
        hyperparameters: those of `LATER_HYPERPARAMETERS` that it takes; a value of another one that is not the default
            is refused.
        engine: how this machine computes the jobs; None: it does not, or nothing is known of its memory.
        engines: processes side by side that do.
        problems: what keeps this machine from doing as the section says, one line each.
        quantization: how the frozen weights are stored, such as `4bit`, part of every trial's key; empty: as precision
            says, or the service's choice.
        warnings: what a user should know of it before a run, one line each.
    """

    kind: str
    address: str
    max_input_characters: int | None
    max_output_characters: int | None
    source: str
    max_in_flight: int
    survives_runner: bool
    is_hosted: bool
    has_prices: bool
    trains_exact_prefixes: bool
    precision: str
    poll_interval_s: float = 0.2
    outlives_kill: bool = False
    max_training_bytes: int | None = None
    min_examples: int = 1
    measures_epochs: bool = False
    keeps_best: bool = False
    takes_learning_rate: bool = True
    measures_losses: bool = False
    trains_conversations: bool = False
    not_taken: tuple[str, ...] = ()
    hyperparameters: tuple[str, ...] = ()
    quantization: str = ""
    engine: EngineSettings | None = None
    engines: int = 1
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


NO_CURSORS: Mapping[JobRef, int] = MappingProxyType({})
"""For a poll that wants every snapshot."""


class Backend(Protocol):
    """A place that runs tuning jobs.

    Contract, tested by `tunerun.testing.backend_contract` on every implementation:

    - `capabilities` touches no network and never changes.
    - `prepare` is called once, before the first submit of a sweep, with every base model of it. It raises InputError
      if one cannot be found (all problems at once), and may fetch or convert what `submit` will need.
    - `submit` is idempotent in `request.key`: a second call with the same key, from this process or a later one,
      starts no second job while the first is running or has succeeded, and answers with a reference that polls to
      the first one's status. A key whose last job failed or was cancelled starts a new one. `submit` returns as
      soon as the job is accepted.
    - `find` answers with the reference of a key's job that is under way or has succeeded; None: there is none, and
      `submit` would start one. It changes nothing.
    - `poll` answers for every reference it is given, also for one of an earlier process: a job that the backend does
      not know (any more) is FAILED with `FailureKind.LOST`. It gives every snapshot whose step is higher than the
      job's cursor in `after` (all where it has none), ordered by step; so a caller who passes on the last step that it
      has recorded gets what is new. Where `capabilities().measures_epochs`, it gives the validation loss of every epoch
      that is measured so far, whatever the cursor; the last or the kept one is `validation/loss`. A state that
      is unknown to the backend is RUNNING.
    - `cancel` of a finished or unknown job does nothing. After it, `poll` soon answers CANCELLED, or what the job
      had reached before.
    - `generate` answers one output per input, in order. An input is a text, or a conversation with a system message and
      earlier turns before its last message. The inputs are rendered already; the backend puts the same chat format
      around them as around training examples. With temperature 0 it is deterministic. `examples` are turns of the same
      conversation, behind the system message and before every input's own earlier turns (`job.behind_examples`). A base
      model whose chat format has no place for them, or for a system message, is a `NoTurnsError`; an input that is too
      long for the base model's context, with all that is before it, is an InputError that names it, and none is
      answered then.
    - Where `capabilities().trains_conversations`, an example may have a system message and earlier turns. Every answer
      that is learned counts in the losses of training and validation, each of its tokens alike. Elsewhere `submit`
      refuses such an example with an InputError, before anything starts; `generate` takes conversations all the same.
    - `losses` measures, for each row, the mean loss of its expected output as the answer to its input: in nats per
      output token, as training has it, with the token that ends an answer; of a conversation that of its last answer
      alone, as only this one is generated too. Other rows of the
      call change a number by rounding only.
    - `choose` answers each input with one of the choices, as it is written there: the one that is likeliest as the
      whole answer. That is the total log likelihood of its tokens, not their mean, so that no choice gains by being
      longer; of two that are equally likely the first. What one input is answered does not depend on the others.
    - A backend without `capabilities().measures_losses` has neither: both raise an InputError that says so.
    - Every method may be called from any thread. They raise `BackendError` (no effect; its kinds say who must act),
      `AmbiguousError` (unknown effect) and nothing else of their own; what the user has to fix (a missing model or
      package) is an `InputError`.
    - Leaving the context releases what the backend holds; jobs continue if `capabilities().survives_runner`, and are
      LOST otherwise.
    """

    def capabilities(self) -> Capabilities: ...

    def prepare(self, models: Sequence[BaseModelRef]) -> None: ...

    def submit(self, request: TuningRequest) -> JobRef: ...

    def find(self, key: str, tuned_model_id: str) -> JobRef | None: ...

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]: ...

    def cancel(self, ref: JobRef) -> None: ...

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]: ...

    def losses(
        self, model: BaseModelRef | TunedModel, rows: Sequence[Example], examples: Sequence[Example] = ()
    ) -> list[float]: ...

    def choose(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        choices: Sequence[str],
        examples: Sequence[Example] = (),
    ) -> list[str]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@runtime_checkable
class AnswersTogether(Protocol):
    """A backend that can answer inputs of several models in shared batches."""

    def generate_together(self, asked: Sequence[ModelInputs]) -> list[list[str] | InputError]:
        """Answer the inputs of several base models and tuned models, each as `generate` alone would.

        Returns:
            For each of them the outputs in the order of its inputs; or the InputError that `generate` would raise,
            which keeps no other from its answers.

        Raises:
            BackendError: as `generate`; nothing was answered, and it is not known which of them was the cause.
        """
