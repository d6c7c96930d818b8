"""Evaluates models on held-out examples; no question is asked twice, in this run or across runs.

The questions follow from the frozen plan: each trial's tuned model and each of its baselines answer the validation set,
and the answers are stored in the ledger. The test set is opened elsewhere (`tunerun.runner.final`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from tunerun.backends.base import AnswersTogether, Backend
from tunerun.baselines.base import PlainModel
from tunerun.errors import AccessError, BackendError, InputError, UnavailableError
from tunerun.examples import Example, ExampleSet, Input
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.job import TunedModel
from tunerun.ledger import LOSSES, Ledger, stopped_by
from tunerun.planning import Plan, Trial
from tunerun.planning.baselines import PlannedBaseline
from tunerun.runner.backend_queue import BackendQueue
from tunerun.runner.progress import Progress
from tunerun.runner.stopping import TURN_ROWS, EarlyStops

RESUME = "run the same command again"

MOST_TOGETHER = 256
"""Maximum inputs of one call for several models, which a killed run has to ask again. Our choice: two to four decoding
batches of the engine."""

LOOK_S = 0.5
"""Seconds between two calls of `waiting` while a backend answers. Our choice: a cancel request then takes effect as
fast as when the runner only waits for jobs."""

MOST_NAMED = 3
"""Maximum number of subjects of a call that the progress display names."""


T = TypeVar("T")


class Answering(Protocol):
    """A tuned model or a baseline that can be asked; see `tunerun.baselines.base.Baseline`."""

    def asks(self, inputs: Sequence[Input], options: GenerateOptions) -> ModelInputs | list[str]:
        """Return what to send to a model; the answers themselves if no model is needed."""

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return the answers in the texts that the model generated."""

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Answer each input with one of the choices."""

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the mean loss of each expected output."""


@dataclass(frozen=True)
class AnswerMethod:
    """How answers are obtained from a model.

    Attributes:
        name: under which the ledger stores the answers: a digest, or `LOSSES`.
        generation: length, temperature and seed of generated answers.
        choices: the answers a model chooses from; empty: it generates text.
    """

    name: str
    generation: GenerateOptions
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """All examples of a held-out set, asked of one subject by one method.

    Attributes:
        subject: the key of a trial, or the subject of a baseline.
        name: of the subject, for progress and messages.
        model: the model or baseline that answers.
        held_out: the examples.
        method: how answers are obtained.
    """

    subject: str
    name: str
    model: Answering
    held_out: ExampleSet
    method: AnswerMethod

    @property
    def key(self) -> tuple[str, str, str]:
        """The key under which the ledger stores the answers."""
        return self.subject, self.held_out.digest, self.method.name

    @property
    def generates(self) -> bool:
        """Whether it is answered with generated text, rather than with choices or losses."""
        return self.method.name != LOSSES and not self.method.choices


@dataclass(frozen=True)
class QuestionPart:
    """The examples of a question from `start` up to, but excluding, `stop`."""

    question: Question
    start: int
    stop: int

    @property
    def rows(self) -> Sequence[Example]:
        """The examples."""
        return self.question.held_out.examples[self.start : self.stop]

    @property
    def asks(self) -> ModelInputs | list[str]:
        """What to send to a model; the answers themselves if no model is needed."""
        return self.question.model.asks([row.input for row in self.rows], self.question.method.generation)

    def ask(self, backend: Backend) -> list[str] | list[float]:
        """Obtain the answers to the examples, or their losses in nats per output token."""
        model, method = self.question.model, self.question.method
        if method.name == LOSSES:
            return model.losses(backend, self.rows)
        if method.choices:
            return model.choose(backend, [row.input for row in self.rows], method.choices)
        asks = self.asks
        if isinstance(asks, list):
            return asks
        return model.read(backend.generate(asks.model, asks.inputs, asks.options, asks.examples))


Failed = Callable[[Question, BackendError | InputError], None]


def _raise(_question: Question, error: BackendError | InputError) -> None:
    raise error


@dataclass
class AnswerCollector:
    """Obtains the answers that the ledger lacks and records them; after a kill, a later run obtains the rest.

    A service gets at most `max_in_flight` inputs in a call, and their answers are recorded before the next call,
    because they may have been paid for. A backend that answers several models together gets the inputs of many
    questions in one call; any other local backend answers a whole question in one call.

    Attributes:
        ledger: open for writing; used only by the thread that calls `ask`.
        backend: answers the questions.
        asks: called before each call, with its questions.
        answered: called after each call.
        waiting: called every `LOOK_S` seconds while a call is running.
        failed: called with each question that cannot be answered and the error; the others are asked unless it raises.
        turn_rows: maximum number of rows of a question in one turn, before the next question; None: all.
        still_open: called before each turn with the unanswered questions; returns those to ask.
    """

    ledger: Ledger
    backend: Backend
    asks: Callable[[Sequence[Question]], None] = lambda _questions: None
    answered: Callable[[], None] = lambda: None
    waiting: Callable[[], None] = lambda: None
    failed: Failed = _raise
    turn_rows: int | None = None
    still_open: Callable[[list[Question]], list[Question]] = lambda questions: questions
    _given_up: set[str] = field(default_factory=set)

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask until every question is answered or has failed; questions with equal keys are asked once."""
        waiting = self._unanswered(list({question.key: question for question in questions}.values()))
        while waiting:
            for parts in self._calls(waiting):
                left = [part for part in parts if part.question.subject not in self._given_up]
                if left:
                    self.asks([part.question for part in left])
                    self._ask(left)
                    self.answered()
            waiting = self._unanswered(waiting)

    def _unanswered(self, questions: Sequence[Question]) -> list[Question]:
        left = [q for q in questions if q.subject not in self._given_up and self.ledger.answered_at(*q.key) is None]
        return self.still_open(left)

    def _calls(self, questions: Sequence[Question]) -> Iterator[list[QuestionPart]]:
        """Yield the parts of each call."""
        known = self.backend.capabilities()
        together: list[QuestionPart] = []
        for question in questions:
            is_shared = question.generates and isinstance(self.backend, AnswersTogether)
            rows = len(question.held_out.examples)
            at_once = MOST_TOGETHER if is_shared else known.max_in_flight if known.survives_runner else max(1, rows)
            start = len(self.ledger.answers_so_far(*question.key))
            stop = rows if self.turn_rows is None else min(start + self.turn_rows, rows)
            for first in range(start, max(stop, start + 1), at_once):  # at least one part, also of an empty set
                part = QuestionPart(question, first, min(first + at_once, stop))
                if not is_shared:
                    yield [part]
                    continue
                if together and sum(len(each.rows) for each in together) + len(part.rows) > MOST_TOGETHER:
                    yield together
                    together = []
                together.append(part)
        if together:
            yield together

    def _ask(self, parts: Sequence[QuestionPart]) -> None:
        if len(parts) > 1 and isinstance(self.backend, AnswersTogether):
            self._ask_together(self.backend, parts)
            return
        for part in parts:
            try:
                values = self._call_in_thread(partial(part.ask, self.backend))
            except (BackendError, InputError) as error:
                self._fail(part, error)
            else:
                self._record(part, values)

    def _ask_together(self, backend: AnswersTogether, parts: Sequence[QuestionPart]) -> None:
        generated: list[tuple[QuestionPart, ModelInputs]] = []
        for part in parts:
            asks = part.asks
            if isinstance(asks, list):
                self._record(part, asks)
            else:
                generated.append((part, asks))
        try:
            texts = self._call_in_thread(partial(backend.generate_together, [asks for _, asks in generated]))
        except (AccessError, UnavailableError) as error:
            for part, _ in generated:
                self._fail(part, error)
        except (BackendError, InputError):  # one part may have crashed the engine: ask each part separately
            for part, _ in generated:
                self._ask([part])
        else:
            for (part, _), answers in zip(generated, texts, strict=True):
                if isinstance(answers, InputError):
                    self._fail(part, answers)
                else:
                    self._record(part, part.question.model.read(answers))

    def _call_in_thread(self, call: Callable[[], T]) -> T:
        """Run a call in another thread while this one, which owns the ledger's connection, calls `waiting`."""
        found: Future[T] = Future()

        def answer() -> None:
            try:
                found.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                found.set_exception(error)

        # A daemon thread rather than a pool: a pool would block the exit of an interrupted run until the call returns.
        threading.Thread(target=answer, name="tunerun-asking", daemon=True).start()
        while not wait([found], LOOK_S).done:
            self.waiting()
        return found.result()

    def _record(self, part: QuestionPart, values: Sequence[str] | Sequence[float]) -> None:
        rows = len(part.question.held_out.examples)
        self.ledger.record_some_answers(part.question.key, part.start, values, rows=rows)

    def _fail(self, part: QuestionPart, error: BackendError | InputError) -> None:
        self._given_up.add(part.question.subject)
        self.failed(part.question, error)


@dataclass
class TrialEvaluator:
    """Evaluates the trials of a plan and their baselines; a subject that fails is retried by the next run.

    Attributes:
        plan: the plan that is run.
        ledger: open for writing.
        progress: is notified of what is evaluated and what fails.
    """

    plan: Plan
    ledger: Ledger
    progress: Progress
    _unmeasurable: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_subject = {baseline.subject: baseline for baseline in self.plan.baselines}
        self._stops = EarlyStops(self.plan, self.ledger, self.progress.note)

    def is_done(self, trial: Trial, answered: Collection[tuple[str, str, str]]) -> bool:
        """Return whether all answers of a trial and of its baselines are recorded.

        Args:
            trial: of the plan.
            answered: the result of `Ledger.answered` for the sweep.
        """
        held_out = trial.validation
        if held_out is None:
            return True
        needed = [
            (subject, method.name)
            for method in answer_methods(trial)
            for subject in [trial.key, *(baseline.subject for baseline in self._baselines(trial, method))]
        ]
        return all(
            (subject, held_out.digest, name) in answered
            or (subject == trial.key and (subject, held_out.digest, stopped_by(self.plan.sweep, name)) in answered)
            for subject, name in needed
        )

    def measure(
        self,
        trained: Sequence[tuple[Trial, TunedModel]],
        place: BackendQueue,
        *,
        is_stopped: Callable[[], bool],
        answered: Callable[[], None],
        waiting: Callable[[], None],
    ) -> None:
        """Obtain the missing answers of trials' baselines and of their tuned models.

        Args:
            trained: trials with their tuned models.
            place: the backend that answers.
            is_stopped: returns whether the run has stopped using that backend.
            answered: called after every successful call of the backend.
            waiting: called every `LOOK_S` seconds while a call is running.

        Raises:
            UnavailableError: the backend does not answer and the run has not stopped using it; try again later.
        """

        def failed(question: Question, error: BackendError | InputError) -> None:
            if isinstance(error, UnavailableError) and not is_stopped():
                raise error
            # The tuned model exists regardless, so the trial does not fail: the next run measures it.
            if isinstance(error, AccessError):
                place.stop(str(error))
            self._unmeasurable.add(question.subject)
            self.progress.note(f"{question.name} could not be evaluated: {error}; {RESUME}")

        def show(questions: Sequence[Question]) -> None:
            names = list(dict.fromkeys(question.name for question in questions))
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            self.progress.evaluating(", ".join(names[:MOST_NAMED]) + more)

        questions = [question for trial, tuned in trained for question in self._questions(trial, tuned)]
        trials = {trial.key: trial for trial, _ in trained}

        def still_open(questions: list[Question]) -> list[Question]:
            generating = [
                trial
                for q in questions
                if (trial := trials.get(q.subject)) is not None and q.method.name == trial.answer_method
            ]
            over = {(trial.key, trial.answer_method) for trial in self._stops.over(generating)}
            return [q for q in questions if (q.subject, q.method.name) not in over]

        turn_rows = TURN_ROWS if self._stops.concerns([*trials.values()]) else None
        collector = AnswerCollector(self.ledger, place.backend, show, answered, waiting, failed, turn_rows, still_open)
        collector.ask([question for question in questions if question.subject not in self._unmeasurable])

    def _questions(self, trial: Trial, tuned: TunedModel) -> Iterator[Question]:
        held_out = trial.validation
        if held_out is None:
            return
        for method in answer_methods(trial):
            # Not the trial's seed: trials of all seeds share a baseline's sampled answers, whichever finishes first.
            generation = replace(method.generation, seed=trial.config.dataset.split_seed)
            shared = replace(method, generation=generation)
            for each in self._baselines(trial, method):
                yield Question(each.subject, f"the baseline {each.name}", each.baseline, held_out, shared)
            yield Question(trial.key, f"trial {trial.number}", PlainModel(tuned), held_out, method)

    def _baselines(self, trial: Trial, method: AnswerMethod) -> Iterator[PlannedBaseline]:
        """Yield the baselines of a trial that can be measured by a method."""
        for each in (self._by_subject[subject] for subject in trial.baselines):
            if each.problem is None and (method.name != LOSSES or each.baseline.measures_losses):
                yield each


def answer_methods(trial: Trial) -> list[AnswerMethod]:
    """Return the methods by which a trial's metrics need answers; empty: it has no metrics."""
    generation = trial.config.evaluation.generation
    options = GenerateOptions(generation.max_output_tokens, generation.temperature, seed=trial.config.seed)
    return [AnswerMethod(name, options, trial.choices) for name in trial.methods]
