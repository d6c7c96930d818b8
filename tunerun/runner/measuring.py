"""What models have to be asked about held-out examples, each question once: by this run, or by any before it.

What is asked follows from the frozen plan: each trial's tuned model and each of its baselines answer the validation
set, and the answers are kept in the ledger. The test set is not asked here (`tunerun.runner.final`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tunerun.backends.base import Backend
from tunerun.errors import AccessError, BackendError, InputError, UnavailableError
from tunerun.job import BaseModelRef, Example, ExampleSet, GenerateOptions, Input, TunedModel
from tunerun.ledger import LOSSES, Ledger
from tunerun.planning import Plan, Trial
from tunerun.planning.baselines import PlannedBaseline
from tunerun.runner.places import Place
from tunerun.runner.progress import Progress

RESUME = "run the same command again"


class Answering(Protocol):
    """A tuned model, or a baseline, as it is asked through a backend; the methods are those of `Backend`."""

    def generate(self, backend: Backend, inputs: Sequence[Input], options: GenerateOptions) -> list[str]:
        """Answer inputs."""

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Answer each input with one of the choices."""

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the mean loss of each expected output."""


@dataclass(frozen=True)
class PlainModel:
    """A model as it is, nothing put before its inputs."""

    model: TunedModel | BaseModelRef

    def generate(self, backend: Backend, inputs: Sequence[Input], options: GenerateOptions) -> list[str]:
        """Answer inputs."""
        return backend.generate(self.model, inputs, options)

    def choose(self, backend: Backend, inputs: Sequence[Input], choices: Sequence[str]) -> list[str]:
        """Answer each input with one of the choices."""
        return backend.choose(self.model, inputs, choices)

    def losses(self, backend: Backend, rows: Sequence[Example]) -> list[float]:
        """Measure the mean loss of each expected output."""
        return backend.losses(self.model, rows)


@dataclass(frozen=True)
class Manner:
    """How answers are obtained, as far as it matters to a model.

    Attributes:
        asked: the digest that the ledger keeps them under.
        choices: what a model chooses from; empty: it generates.
    """

    asked: str
    generation: GenerateOptions
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """What one subject is asked: all examples of a held-out set, in one manner.

    Attributes:
        name: of the subject, for people.
    """

    subject: str
    name: str
    model: Answering
    held_out: ExampleSet
    manner: Manner

    @property
    def key(self) -> tuple[str, str, str]:
        """What the ledger keeps the answers under."""
        return self.subject, self.held_out.digest, self.manner.asked

    def ask(self, backend: Backend, start: int, stop: int) -> list[str] | list[float]:
        """The answers to some of the examples."""
        rows = self.held_out.examples[start:stop]
        if self.manner.asked == LOSSES:
            return self.model.losses(backend, rows)
        inputs = [row.input for row in rows]
        if self.manner.choices:
            return self.model.choose(backend, inputs, self.manner.choices)
        return self.model.generate(backend, inputs, self.manner.generation)


def ask(ledger: Ledger, backend: Backend, question: Question, answered: Callable[[], None] = lambda: None) -> None:
    """Ask what the ledger does not know yet of a question, and record it; killed at any time, the rest is asked later.

    A service is asked for as many answers at a time as it takes jobs, and these are recorded before the next ones are
    asked for: they may have been paid for. A model on this machine answers all at once, which is fastest.

    Args:
        answered: called after each time, so that a long question holds up nothing else.

    Raises:
        BackendError: what the backend raises; the answers so far are recorded.
        InputError: the same.
    """
    known, rows = backend.capabilities(), len(question.held_out.examples)
    at_once = known.max_in_flight if known.survives_runner else rows
    while ledger.answered_at(*question.key) is None:
        start = len(ledger.answers_so_far(*question.key))
        values = question.ask(backend, start, min(start + at_once, rows))
        ledger.record_some_answers(question.key, start, values, rows=rows)
        answered()


@dataclass
class Measuring:
    """Asks the trials of a plan and their baselines; a subject that cannot be asked is left to the next run."""

    plan: Plan
    ledger: Ledger
    progress: Progress
    _unmeasurable: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_subject = {baseline.subject: baseline for baseline in self.plan.baselines}

    def is_done(self, trial: Trial, answered: Collection[tuple[str, str, str]]) -> bool:
        """Whether the answers of a trial and of its baselines are all there.

        Args:
            answered: `Ledger.answered` of the sweep.
        """
        held_out = trial.validation
        if held_out is None:
            return True
        return all(
            (subject, held_out.digest, manner.asked) in answered
            for manner in manners(trial)
            for subject in [trial.key, *(baseline.subject for baseline in self._baselines(trial, manner))]
        )

    def measure(
        self,
        trial: Trial,
        tuned: TunedModel,
        place: Place,
        *,
        is_stopped: Callable[[], bool],
        answered: Callable[[], None],
    ) -> None:
        """Ask what is not known yet of a trial's baselines and of its tuned model.

        Args:
            place: where they are asked. is_stopped: whether the run has given that place up.
            answered: called after every call that the backend has answered.

        Raises:
            UnavailableError: the place does not answer now, and it was not given up; ask again later.
        """
        for question in self._questions(trial, tuned):
            if question.subject in self._unmeasurable or self.ledger.answered_at(*question.key) is not None:
                continue
            self.progress.evaluating(question.name)
            try:
                ask(self.ledger, place.backend, question, answered)
            except (BackendError, InputError) as error:
                if isinstance(error, UnavailableError) and not is_stopped():
                    raise
                # The tuned model is there all the same; the next run measures it.
                if isinstance(error, AccessError):
                    place.stop(str(error))
                self._unmeasurable.add(question.subject)
                self.progress.note(f"{question.name} could not be evaluated: {error}; {RESUME}")

    def _questions(self, trial: Trial, tuned: TunedModel) -> Iterator[Question]:
        held_out = trial.validation
        if held_out is None:
            return
        for manner in manners(trial):
            # Whichever trial finishes first: trials of all seeds share a baseline's sampled answers.
            generation = replace(manner.generation, seed=trial.config.dataset.split_seed)
            shared = replace(manner, generation=generation)
            for each in self._baselines(trial, manner):
                yield Question(each.subject, f"the baseline {each.name}", each.baseline, held_out, shared)
            yield Question(trial.key, f"trial {trial.number}", PlainModel(tuned), held_out, manner)

    def _baselines(self, trial: Trial, manner: Manner) -> Iterator[PlannedBaseline]:
        """What a trial is compared with and can be asked in a manner."""
        for each in (self._by_subject[subject] for subject in trial.baselines):
            if each.problem is None and (manner.asked != LOSSES or each.baseline.measures_losses):
                yield each


def manners(trial: Trial) -> list[Manner]:
    """How the metrics of a trial need its models to be asked; empty where it has none."""
    generation = trial.config.evaluation.generation
    options = GenerateOptions(generation.max_output_tokens, generation.temperature, seed=trial.config.seed)
    return [Manner(way, options, trial.choices) for way in trial.ways]
