"""Asks models about held-out examples and records the answers; no question is asked twice, in this run or across runs.

Answers are recorded as they arrive, so what a killed run had obtained is not asked, and not paid for, again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from tunerun.backends.base import AnswersTogether, Backend
from tunerun.baselines.base import Answering
from tunerun.errors import AccessError, BackendError, InputError, UnavailableError
from tunerun.examples import Example, ExampleSet
from tunerun.generation import GenerateOptions, ModelInputs
from tunerun.ledger import LOSSES, Ledger

MOST_TOGETHER = 256
"""Maximum inputs of one call for several models, which a killed run has to ask again. Our choice: two to four decoding
batches of the engine."""

LOOK_S = 0.5
"""Seconds between two calls of `waiting` while a backend answers. Our choice: a cancel request then takes effect as
fast as when the runner only waits for jobs."""

T = TypeVar("T")


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


@dataclass
class AnswerCollector:
    """Obtains the answers that the ledger lacks and records them; after a kill, a later run obtains the rest.

    Attributes:
        ledger: open for writing; used only by the thread that calls `ask`.
        backend: answers the questions.
        asks: called before each call, with its questions.
        answered: called after each call.
        waiting: called every `LOOK_S` seconds while a call is running.
        failed: called with each question that cannot be answered and the error; the others are asked unless it raises.
            None: the error is raised.
        turn_rows: maximum number of rows of a question in one turn, before the next question; None: all.
        still_open: called before each turn with the unanswered questions; returns those to ask.
    """

    ledger: Ledger
    backend: Backend
    asks: Callable[[Sequence[Question]], None] = lambda _questions: None
    answered: Callable[[], None] = lambda: None
    waiting: Callable[[], None] = lambda: None
    failed: Callable[[Question, BackendError | InputError], None] | None = None
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
        limits = self.backend.capabilities()
        together: list[QuestionPart] = []
        for question in questions:
            is_shared = question.generates and isinstance(self.backend, AnswersTogether)
            rows = len(question.held_out.examples)
            # What a kill loses is the call under way. A service's answers may have been paid for, so a call has only
            # what it answers in parallel; any other backend on this machine answers a whole question at once.
            at_once = MOST_TOGETHER if is_shared else limits.max_in_flight if limits.survives_runner else max(1, rows)
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
        except (AccessError, UnavailableError) as error:  # of the backend, so the same for every part
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
        result: Future[T] = Future()

        def answer() -> None:
            try:
                result.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                result.set_exception(error)

        # A daemon thread rather than a pool: a pool would block the exit of an interrupted run until the call returns.
        threading.Thread(target=answer, name="tunerun-asking", daemon=True).start()
        while not wait([result], LOOK_S).done:
            self.waiting()
        return result.result()

    def _record(self, part: QuestionPart, values: Sequence[str] | Sequence[float]) -> None:
        rows = len(part.question.held_out.examples)
        self.ledger.record_some_answers(part.question.key, part.start, values, rows=rows)

    def _fail(self, part: QuestionPart, error: BackendError | InputError) -> None:
        if self.failed is None:
            raise error
        self._given_up.add(part.question.subject)
        self.failed(part.question, error)
