"""The Protocol every backend implements, and what a backend can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Protocol, Self, runtime_checkable

from tunerun.engine.settings import EngineSettings
from tunerun.errors import InputError
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.job import BaseModelRef, JobRef, JobStatus, TunedModel, TuningRequest


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do and its limits, made from its config section without opening or sending anything.

    Attributes:
        kind: `local`, `gemini`, `vertex` or `openai`; part of every trial's key.
        address: of the service, part of every trial's key; empty for the embedded engine.
        max_input_characters: limit of one example's input with its system message and earlier turns; None: no limit.
        max_output_characters: limit of one example's `output`; None: no limit.
        source: the document that states the limits, with its date.
        max_in_flight: maximum unfinished jobs.
        survives_runner: whether a job continues when the process that submitted it ends.
        outlives_kill: whether a job may continue for a while, and be found again, when that process is killed; the job
            ends when the process ends in another way.
        is_hosted: whether base models are at a service, which only names them; otherwise their files are on this
            machine, and their content identifies them.
        has_prices: whether tuning there may cost money.
        trains_exact_prefixes: whether a job with fewer epochs takes bit for bit the first steps of one with more.
        precision: number format of the frozen weights, part of every trial's key; empty: the service chooses it.
        poll_interval_s: seconds between two polls of the running jobs.
        max_training_bytes: limit of all training examples as they are sent; None: no limit.
        min_examples: minimum training examples of a job.
        measures_epochs: whether it measures the loss on held-out examples after each epoch.
        keeps_best: whether the tuned model can be that of the epoch with the lowest loss on held-out examples.
        takes_learning_rate: whether it takes an absolute learning rate; otherwise only a multiplier of its own rate.
        measures_losses: whether it can measure the likelihood of given outputs, so that it has `losses` and `choose`.
        trains_conversations: whether it tunes on examples with a system message or earlier turns, and not only on an
            input and its output.
        not_taken: keys of the config that the service does not support, so that they cannot be swept.
        hyperparameters: the `LATER_HYPERPARAMETERS` that it takes; for all others only the default is allowed.
        engine: settings of the engines on this machine; None: jobs run elsewhere.
        engines: number of engine processes that run in parallel.
        problems: why this machine cannot do what the section requires, one line each.
        quantization: how the frozen weights are stored, such as `4bit`, part of every trial's key; empty: as precision
            says, or the service's choice.
        warnings: what a user should know before a run, one line each.
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
"""Cursors of a poll that returns every snapshot."""


class Backend(Protocol):
    """A place that runs tuning jobs.

    Contract, tested by `tunerun.testing.backend_contract` on every implementation:

    - `capabilities` touches no network and never changes.
    - `prepare` is called once, before the first submit of a sweep, with every base model of it. It raises InputError
      if some cannot be found (all problems at once), and may fetch or convert what `submit` needs.
    - `submit` is idempotent in `request.key`: a second call with the same key, from this process or a later one,
      starts no second job while the first is running or has succeeded, and returns a reference that polls to the
      first one's status. A key whose last job failed or was cancelled starts a new one. `submit` returns as
      soon as the job is accepted.
    - `find` returns the reference of a key's job that is running or has succeeded; None: there is none, and `submit`
      would start one. It changes nothing.
    - `poll` returns a status for every reference, also for one of an earlier process: a job that the backend does not
      know, or no longer knows, is FAILED with `FailureKind.LOST`. A status has every snapshot whose step is higher than
      the job's cursor in `after` (all snapshots without a cursor), ordered by step; so a caller that passes the last
      step that it has recorded gets what is new. With `capabilities().measures_epochs` it also has the validation loss
      of every epoch that was measured so far, whatever the cursor; that of the last or the kept epoch is
      `validation/loss`. A state of the service that the backend does not know is RUNNING.
    - `cancel` of a finished or unknown job does nothing. After it, `poll` soon returns CANCELLED, or the state that the
      job had reached before.
    - `generate` returns one output per input, in order. An input is a text, or a conversation with a system message and
      earlier turns before its last message. The inputs are already rendered; the backend puts the same chat format
      around them as around training examples. With temperature 0 it is deterministic. `examples` are turns of the same
      conversation, after the system message and before every input's own earlier turns (`job.behind_examples`). A base
      model whose chat format has no place for them, or for a system message, raises a `NoTurnsError`. An input that,
      with everything before it, is too long for the base model's context raises an InputError that names it; then no
      input is answered.
    - With `capabilities().trains_conversations`, an example may have a system message and earlier turns. Every answer
      that is learned counts in the losses of training and validation, with the same weight for each token. Without it,
      `submit` refuses such an example with an InputError before anything starts; `generate` takes conversations anyway.
    - `losses` measures, for each row, the mean loss of its expected output as the answer to its input: in nats per
      output token, as in training, including the token that ends an answer. Of a conversation it measures the last
      answer only, because only that one is generated. Other rows of the call change a number by rounding only.
    - `choose` returns for each input one of the choices, verbatim: the likeliest one as the whole answer. That is the
      total log likelihood of its tokens, not their mean, so that a choice does not gain by being longer; of equally
      likely choices the first is returned. The result for an input does not depend on the other inputs.
    - A backend without `capabilities().measures_losses` raises an InputError from both.
    - Every method may be called from any thread. They raise `BackendError` (no effect; its kinds say who must act),
      `AmbiguousError` (unknown effect), and `InputError` for what the user has to fix (a missing model or package);
      nothing else.
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

    def generate_together(self, groups: Sequence[ModelInputs]) -> list[list[str] | InputError]:
        """Answer the inputs of several base and tuned models, with the same results as separate `generate` calls.

        Args:
            groups: the inputs, options and examples for each model.

        Returns:
            For each model the outputs in the order of its inputs, or the InputError that `generate` would raise; the
            other models are answered all the same.

        Raises:
            BackendError: as `generate`; nothing was answered, and the cause may be any of the models.
        """
