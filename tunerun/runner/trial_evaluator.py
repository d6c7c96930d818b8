"""Evaluates the trials of a plan: which questions are asked of tuned models and baselines, and what a failure means.

The questions follow from the frozen plan: each trial's tuned model and each of its baselines answer the validation set.
The test set is opened elsewhere (`tunerun.runner.final`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tunerun.baselines.base import PlainModel
from tunerun.errors import AccessError, BackendError, InputError, UnavailableError
from tunerun.generation import GenerateOptions
from tunerun.job import TunedModel
from tunerun.ledger import LOSSES, Ledger, stopped_by
from tunerun.planning import Plan, Trial
from tunerun.planning.baselines import PlannedBaseline
from tunerun.runner.answer_collector import AnswerCollector, AnswerMethod, Question
from tunerun.runner.backend_queue import BackendQueue
from tunerun.runner.progress import Progress
from tunerun.runner.stopping import TURN_ROWS, EarlyStops

RESUME = "run the same command again"

MOST_NAMED = 3
"""Maximum number of subjects of a call that the progress display names."""


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
        # A trial that has stopped early has all the answers that it will get in this sweep.
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
            # Only answers stop early, as the test compares their scores; losses are measured on all rows.
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
