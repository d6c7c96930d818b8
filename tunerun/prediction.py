"""Calls a tuned model with the template it was trained with: once with `predict`, or many times on an open model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from tunerun import schema
from tunerun.backends import open_backend, stored_section
from tunerun.backends.base import Backend
from tunerun.dataset import RowBuilder, SourceRow, read_rows, with_conversations
from tunerun.engine import tuned_model
from tunerun.engine.base_model import cache_folder
from tunerun.errors import BackendError, DatasetError, NotFoundError, TemplateError
from tunerun.examples import Example, Input, as_conversation
from tunerun.generation import GenerateOptions
from tunerun.interpolation import resolved
from tunerun.job import TunedModel
from tunerun.ledger import JobRecord, Ledger, TrialRecord, TrialSettings
from tunerun.ledger.subjects import key_of_subject
from tunerun.planning import ledger_path
from tunerun.template import PromptTemplate

_PREFIX = "tunedModels/"


@dataclass(frozen=True)
class Predictions:
    """The answers of a tuned model, one for each row, in order.

    Attributes:
        tuned_model: its name, `tunedModels/<id>`.
        outputs: one answer for each row.
        warnings: how the rows differ from those of training, one line each.
    """

    tuned_model: str
    outputs: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallableModel:
    """A tuned model with the settings that a call needs, as they were frozen when it was trained.

    Attributes:
        tuned_model: where its weights are.
        template: renders rows into inputs.
        backend: the config section of the backend that answers.
        generation: length and temperature of answers.
        seed: of sampled answers.
        cache: folder of converted base models; None: the user's cache directory.
    """

    tuned_model: TunedModel
    template: PromptTemplate
    backend: schema.BackendSection
    generation: GenerateOptions
    seed: int
    cache: str | None


def predict(
    run: str,
    rows: Sequence[Mapping[str, Any]] | Path,
    *,
    runs: str | Path = "runs",
    max_output_tokens: int | None = None,
) -> Predictions:
    """Answer rows with a tuned model, using the template it was trained with.

    Args:
        run: an MLflow run id, or the name of a tuned model, such as `tunedModels/next-number-0a1b2c3d4e5f`.
        rows: mappings with the columns that the template's `text_input` names (others are ignored), or a file of such
            rows in any format that training reads. For a row that is a conversation, such as one of `messages`, the
            model answers the last user message, with the earlier turns before it.
        runs: the folder of the ledger.
        max_output_tokens: maximum length of an answer, in tokens; None: as in the experiment.

    Returns:
        The answers, in the order of the rows.

    Raises:
        NotFoundError: the ledger has no such run, or the run has no tuned model.
        TemplateError: a row lacks a column, or is a conversation that cannot be answered; the message names its
            position from 1, or its file and line.
        DatasetError: the file cannot be read, or contains a conversation that cannot be answered.
        BackendError: the tuned model cannot be called.
    """
    with open_model(run, runs=runs, max_output_tokens=max_output_tokens) as model:
        inputs = model.inputs(rows)
        outputs = model.answers(inputs)
    return Predictions(model.name, tuple(outputs), tuple(unlearned(inputs, training_of(run, Path(runs)))))


def unlearned(inputs: Sequence[Input], training: Sequence[Example]) -> Iterator[str]:
    """Yield warnings about inputs whose system message, or lack of one, did not occur in training.

    Args:
        inputs: rendered inputs.
        training: the examples that the model was trained on.
    """
    trained = {example.system for example in training}
    systems = [as_conversation(each).system for each in inputs]
    count = f"of {len(inputs):,} {'row' if len(inputs) == 1 else 'rows'}"
    if trained and "" not in trained and (lacking := systems.count("")):
        yield (
            f"{lacking:,} {count}: no system message, but every training row had one; give rows of messages "
            "with it, or use --chat, which sends it"
        )
    if trained and (other := sum(bool(system) and system not in trained for system in systems)):
        yield f"{other:,} {count}: a system message that did not occur in training, so answers to it were not learned"


class OpenModel:
    """A tuned model that answers calls until it is closed; `tunerun.open` returns one.

        with tunerun.open("tunedModels/support-0a1b2c3d4e5f") as model:
            model(message="I was charged twice.")
            model.many([{"message": "one"}, {"message": "two"}])

    The engine starts with the first call and stays loaded, so that later calls only take as long as their answers. It
    may be called from several threads; calls are answered one at a time.

    Args:
        model: the tuned model with its stored settings, from `find_model`.
        options: generation options.
        backend: answers the calls; closed together with the model.
    """

    def __init__(self, model: CallableModel, options: GenerateOptions, backend: Backend) -> None:
        self._model = model
        self._options = options
        self._backend = backend
        self._one_at_a_time = Lock()
        self._is_closed = False

    @property
    def name(self) -> str:
        """The name of the tuned model, `tunedModels/<id>`."""
        return self._model.tuned_model.name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template reads."""
        return tuple(sorted(self._model.template.input_columns))

    @property
    def template(self) -> PromptTemplate:
        """The template that it was trained with; not thread-safe."""
        return self._model.template

    def __call__(self, row: Mapping[str, Any] | None = None, /, **columns: Any) -> str:
        """Answer one row.

        Args:
            row: the columns as a mapping, for names that are not Python identifiers.
            columns: the columns as keyword arguments; they override those of `row`.

        Raises:
            TemplateError: a column that the template reads is missing.
            BackendError: the tuned model cannot be called, or was closed.
        """
        return self.many([{**(row or {}), **columns}])[0]

    def many(self, rows: Sequence[Mapping[str, Any]] | Path, *, max_output_tokens: int | None = None) -> list[str]:
        """Answer many rows at once, which is faster than one call for each.

        Args:
            rows: mappings or a file, as in `predict`.
            max_output_tokens: maximum length of an answer, in tokens; None: the value the model was opened with.

        Raises:
            TemplateError: a row lacks a column; the message names its position from 1, or its file and line.
            DatasetError: the file cannot be read.
            BackendError: the tuned model cannot be called, or was closed.
        """
        return self.answers(self.inputs(rows), max_output_tokens=max_output_tokens)

    def inputs(self, rows: Sequence[Mapping[str, Any]] | Path) -> list[Input]:
        """Render rows into the model's inputs.

        Args:
            rows: as in `many`.

        Raises:
            TemplateError, DatasetError: as in `many`.
        """
        placed = _placed(rows, self._model.template)
        inputs: list[Input] = []
        problems: list[str] = []
        with self._one_at_a_time:  # a template is not thread-safe
            for row in placed:
                try:
                    inputs.append(self._model.template.render_input(row.columns, row.conversation))
                except TemplateError as error:
                    problems.extend(f"{row.place}: {problem}" for problem in error.problems)
        if problems:
            raise TemplateError(problems)
        return inputs

    def answers(
        self, inputs: Sequence[Input], *, max_output_tokens: int | None = None, is_base: bool = False
    ) -> list[str]:
        """Answer inputs that are already rendered.

        Args:
            inputs: from `inputs`.
            max_output_tokens: as in `many`.
            is_base: whether the base model answers instead of the tuned model.

        Raises:
            InputError: an input is too long for the base model's context.
            BackendError: the model cannot be called, or was closed.
        """
        options = replace(self._options, max_output_tokens=max_output_tokens or self._options.max_output_tokens)
        tuned = self._model.tuned_model
        # `close` takes the lock too: it waits for the answer that is being generated.
        with self._one_at_a_time:
            if self._is_closed:
                raise BackendError(f"{self.name} was closed; open it again with tunerun.open({self.name!r})")
            return self._backend.generate(tuned.model if is_base else tuned, inputs, options)

    def close(self) -> None:
        """Stop the engine after the current answer; a second call does nothing."""
        with self._one_at_a_time:
            if not self._is_closed:
                self._is_closed = True
                self._backend.__exit__(None, None, None)  # entered by `opened`

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OpenModel {self.name}: {'closed' if self._is_closed else 'open'}, reads {', '.join(self.columns)}>"


def open_model(run: str, *, runs: str | Path = "runs", max_output_tokens: int | None = None) -> OpenModel:
    """Open a tuned model for many calls; close it, or use it in a `with` statement.

    Args:
        run: as in `predict`.
        runs: as in `predict`.
        max_output_tokens: as in `predict`.

    Raises:
        NotFoundError: the ledger has no such run, or the run has no tuned model.
        BackendError: its backend cannot be opened.
    """
    return opened(find_model(run, Path(runs)), Path(runs).absolute(), max_output_tokens=max_output_tokens)


def opened(model: CallableModel, runs: Path, *, max_output_tokens: int | None = None) -> OpenModel:
    """Open a tuned model for calls.

    Args:
        model: from `find_model` or `checked_model`.
        runs: folder in which its engine writes its log.
        max_output_tokens: as in `predict`.

    Raises:
        BackendError: its backend cannot be opened.
    """
    options = GenerateOptions(
        max_output_tokens=max_output_tokens or model.generation.max_output_tokens,
        temperature=model.generation.temperature,
        seed=model.seed,
    )
    # Closed again if its base model cannot be prepared; otherwise the open model closes it.
    with ExitStack() as stack:
        backend = stack.enter_context(open_backend(model.backend, runs, cache_folder(model.cache)))
        backend.prepare([model.tuned_model.model])
        stack.pop_all()
    return OpenModel(model, options, backend)


def find_model(run: str, runs: Path) -> CallableModel:
    """Look up a tuned model in the ledger.

    Args:
        run: as in `predict`.
        runs: the folder of the ledger.

    Raises:
        NotFoundError: the ledger, the run or its tuned model does not exist.
    """
    path = ledger_path(runs)
    if not path.exists():
        raise NotFoundError(f"{path}: no ledger; give the folder of your runs with --runs")
    with Ledger.open_read_only(path) as ledger:
        job, trial = job_and_trial(ledger, run)
        if job is None or job.tuned_model is None or trial is None:
            raise NotFoundError(
                f"--run {run}: no tuned model under this run id or name in {path}; "
                "`tunerun status` shows the trials, `tunerun status --json` their names"
            )
        try:
            return checked_model(ledger, job.tuned_model, trial)
        except NotFoundError as error:
            raise NotFoundError(f"--run {run}: {error}") from error


def checked_model(ledger: Ledger, tuned: TunedModel, trial: TrialRecord) -> CallableModel:
    """Return a tuned model with the settings that a call needs, after checking that its adapter is unchanged.

    Raises:
        NotFoundError: the adapter is missing or has changed; the message gives the command that makes it again.
    """
    cache = checked_cache(ledger, tuned, trial)
    return replace(callable_model(tuned, trial.settings, trial.number_format), cache=cache)


def checked_cache(ledger: Ledger, tuned: TunedModel, trial: TrialRecord) -> str | None:
    """Check that a tuned model's adapter is unchanged, and return where its base model is converted.

    Args:
        ledger: of the trial.
        tuned: the tuned model; one at a service is not checked.
        trial: that trained it.

    Returns:
        The trial's folder of converted base models; None: the user's cache directory.

    Raises:
        NotFoundError: the adapter is missing or has changed; the message gives the command that makes it again.
    """
    # A ledger may have moved to another machine: a cache folder that does not exist here is not created.
    cache = resolved(trial.settings.cache) if trial.settings.cache else None
    cache = cache if cache is not None and Path(cache).is_dir() else None
    fault = None if tuned.folder is None else tuned_model.fault(tuned.folder, tuned.weights, cache_folder(cache))
    # Every trial of a ledger has a sweep, so without one there is no fault.
    sweep = None if fault is None else ledger.newest_sweep_of_key(trial.key)
    if sweep is not None:
        raise NotFoundError(f"{fault}; to make it again: {sweep.command_afresh}")
    return cache


def callable_model(tuned: TunedModel, settings: TrialSettings, number_format: str = "") -> CallableModel:
    """Return a tuned model with the settings that a call needs, taken from its trial.

    Args:
        tuned: the tuned model.
        settings: of the trial that trained it.
        number_format: the number format of its training, which it also answers in unless the config sets another;
            empty: not known.

    Raises:
        ConfigError: this version of tunerun does not have its kind of backend.
    """
    return CallableModel(
        tuned_model=tuned,
        template=PromptTemplate(settings.template),
        backend=stored_section(settings.backend, number_format),
        generation=settings.generation,
        seed=settings.seed,
        cache=settings.cache,
    )


def job_and_trial(ledger: Ledger, run: str) -> tuple[JobRecord | None, TrialRecord | None]:
    """Return the job of an MLflow run id or a tuned model's name, and the newest of the trials that share it.

    Both are None if the ledger has no such run.
    """
    subject = ledger.subject_of_run(run)
    key = key_of_subject(subject) if subject else None
    # A tuned model may be named without the prefix.
    job = ledger.job_of_tuned_model(_PREFIX + run.removeprefix(_PREFIX)) if key is None else ledger.job(key)
    return job, None if job is None else ledger.trials_of_key(job.key)[-1]


def training_of(run: str, runs: Path) -> tuple[Example, ...]:
    """Return the examples that a tuned model was trained on.

    Args:
        run, runs: as in `find_model`.
    """
    with Ledger.open_read_only(ledger_path(runs)) as ledger:
        _, trial = job_and_trial(ledger, run)
        return () if trial is None else ledger.example_set(trial.training).examples


def _placed(rows: Sequence[Mapping[str, Any]] | Path, template: PromptTemplate) -> list[SourceRow]:
    """Return rows with their positions, and with the columns that their conversations provide."""
    if isinstance(rows, Path):
        read, findings = with_conversations(read_rows(rows), template.input_columns)
        if findings:
            raise DatasetError(findings.lines())
        return list(read)
    # Collected like rows of a file, so that conversations are recognised by the same rules.
    builder = RowBuilder("")
    for position, row in enumerate(rows, start=1):
        builder.add(position, row)
    typed = builder.rows()
    read, findings = with_conversations(typed, template.input_columns)
    if findings:
        raise TemplateError(findings.lines())
    if read is typed:  # without conversations each row keeps its own order of columns
        return [SourceRow("", position, row) for position, row in enumerate(rows, start=1)]
    return list(read)
