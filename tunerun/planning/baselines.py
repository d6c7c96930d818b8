"""The baselines of a plan, planned once for each base model, template and held-out set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from tunerun.baselines import Baseline, Setting, baselines_of
from tunerun.dataset import LoadedDataset, TokenLimit
from tunerun.digest import digest
from tunerun.engine.token_counter import TokenCounter
from tunerun.errors import NoTurnsError
from tunerun.examples import Example, ExampleSet
from tunerun.job import BaseModelRef
from tunerun.ledger import LOSSES, BaselineRecord
from tunerun.planning.sources import Sources
from tunerun.planning.trial import Trial
from tunerun.planning.trial_key import group_identity
from tunerun.schema import Evaluation, Point


@dataclass(frozen=True)
class PlannedBaseline:
    """A baseline of a plan.

    Attributes:
        name: its name in tables, unique within the plan.
        baseline: the baseline that answers.
        trials: numbers of the trials compared with it: those of its base model, template and held-out set.
        tokens: of prompts and expected answers not answered yet; 0 if it does not ask a model.
        is_answered: whether the ledger has all of its answers.
        problem: why it is omitted; None: it is included.
    """

    name: str
    baseline: Baseline
    trials: tuple[int, ...]
    tokens: int = 0
    is_answered: bool = False
    problem: str | None = None

    @property
    def subject(self) -> str:
        """The key under which the ledger stores its answers."""
        return self.baseline.subject

    def record(self) -> BaselineRecord:
        """Return the baseline as the ledger freezes it."""
        more = {"trials": list(self.trials), "tokens": self.tokens, "problem": self.problem}
        return BaselineRecord(self.subject, self.name, self.baseline.kind, {**self.baseline.document(), **more})

    def to_json(self) -> dict[str, Any]:
        """Return the baseline as `plan --json` prints it."""
        return {
            "name": self.name,
            "kind": self.baseline.kind,
            "trials": list(self.trials),
            "tokens": self.tokens,
            "done": self.is_answered,
            "problem": self.problem,
        }


@dataclass
class Group:
    """The trials of one base model, template and held-out set.

    Attributes:
        model: the base model.
        identity: ingredients that the subjects of their baselines hash; see `Setting`.
        loaded: the data of the first trial with the most training examples; few-shot examples are drawn from it.
        counter: counts tokens as the base model does.
        limit: the base model's maximum number of tokens; None: not known.
        counts: `evaluation.baselines.examples` of all trials.
        methods: how answers to the validation set are obtained, as the ledger keys them.
        trials: their numbers.
        tests: their test sets by digest; their validation set is the same one.
    """

    model: BaseModelRef
    identity: Mapping[str, Any]
    loaded: LoadedDataset
    counter: TokenCounter
    limit: TokenLimit | None
    counts: dict[int, None] = field(default_factory=dict)
    methods: dict[str, None] = field(default_factory=dict)
    trials: list[int] = field(default_factory=list)
    tests: dict[str, ExampleSet] = field(default_factory=dict)

    def add(self, trial: int, loaded: LoadedDataset, counts: Sequence[int], methods: Sequence[str]) -> None:
        """Add a trial to the group.

        Args:
            trial: its number.
            loaded: its data.
            counts: its `evaluation.baselines.examples`.
            methods: how answers to its validation set are obtained.
        """
        self.trials.append(trial)
        self.counts.update(dict.fromkeys(counts))
        self.methods.update(dict.fromkeys(methods))
        if loaded.test is not None:
            self.tests[loaded.test.digest] = loaded.test
        # Few-shot examples come from the largest training set of the group, whatever the trials' dataset.limit is.
        if len(loaded.training.examples) > len(self.loaded.training.examples):
            self.loaded = loaded

    @property
    def validation(self) -> ExampleSet | None:
        """The examples that the baselines answer."""
        return self.loaded.validation

    def setting(self) -> Setting:
        """Return what the baselines are built from; if no answers are needed, only the base model is measured."""
        # The training set is for the majority answer, which has no losses.
        texts = any(method != LOSSES for method in self.methods)
        # Trials of one group may have different test sets, so one trial's training example may be another's test
        # example: those are not drawn.
        inputs = {_same(example) for test in self.tests.values() for example in test.examples}
        return Setting(
            model=self.model,
            identity=self.identity,
            training=self.loaded.training.examples if texts else (),
            drawn=[example for example in self.loaded.drawn if _same(example) not in inputs],
            expected=[example.output for example in self.validation.examples] if self.validation else (),
            counts=[count for count in self.counts if self.methods or count == 0],
        )

    def planned(self, answered: Set[tuple[str, str, str]]) -> Iterator[PlannedBaseline]:
        """Yield the baselines of these trials, named without regard to other groups.

        Args:
            answered: what the ledger has answers to: (subject, held-out set's digest, method).
        """
        tokens: list[int] | None = None
        for baseline in baselines_of(self.setting()):
            methods = [method for method in self.methods if method != LOSSES or baseline.measures_losses]
            open_methods = [
                method
                for method in methods
                if self.validation and (baseline.subject, self.validation.digest, method) not in answered
            ]
            problem, more = baseline.problem, None
            # Answered baselines cost nothing more, so their tokens are not counted.
            if open_methods and problem is None:
                try:
                    more = baseline.extra_tokens(self.counter)
                except NoTurnsError as error:
                    problem = str(error)
            needed = 0
            if self.validation is not None and more is not None:
                tokens = tokens or self.counter.count_all(self.validation.examples)
                longest = max(tokens) + more
                # An estimated count is too uncertain to omit a baseline for it.
                if self.limit is not None and self.limit.exact and longest > self.limit.most:
                    problem = (
                        f"its longest prompt and answer have {longest:,} tokens, and the base model takes "
                        f"{self.limit.most:,}; lower evaluation.baselines.examples"
                    )
                else:
                    needed = (sum(tokens) + more * len(tokens)) * len(open_methods)
            yield PlannedBaseline(
                baseline.name, baseline, tuple(self.trials), needed, is_answered=not open_methods, problem=problem
            )


def _same(example: Example) -> tuple[str, ...]:
    """A form that is equal for inputs that differ only in case, white space or system message."""
    earlier = [text for turn in example.earlier for text in (turn.text_input, turn.output)]
    return tuple(" ".join(text.casefold().split()) for text in (*earlier, example.text_input))


def groups_of(points: Sequence[Point], trials: Sequence[Trial], sources: Sources) -> list[Group]:
    """Return the groups of trials that are compared with the same baselines.

    Args:
        points: of the plan.
        trials: one for each point.
        sources: from which the trials were made.
    """
    groups: dict[str, Group] = {}
    for point, trial in zip(points, trials, strict=True):
        # Looked up by the point's config: the trial's may name another revision, which was not loaded.
        config, loaded = point.config, sources.examples(point.config, trial.number)
        identity = group_identity(trial.capabilities, loaded, trial.ingredients["model"])
        key = digest(identity)
        if key not in groups:
            counter, limit = sources.counter(config), sources.token_limit(config)
            groups[key] = Group(trial.base_model, identity, loaded, counter, limit)
        methods = trial.methods if loaded.validation is not None else ()
        groups[key].add(trial.number, loaded, config.evaluation.baselines.examples, methods)
    return list(groups.values())


def planned_baselines(groups: Sequence[Group], answered: Set[tuple[str, str, str]]) -> tuple[PlannedBaseline, ...]:
    """Return all baselines of a plan; if groups have different baselines of one name, the group's number is appended.

    Args:
        groups: of the plan's trials.
        answered: as in `Group.planned`.
    """
    by_subject: dict[str, tuple[int, PlannedBaseline]] = {}
    for position, group in enumerate(groups):
        for each in group.planned(answered):
            if each.subject in by_subject:  # such as the majority answer to rows that two templates render alike
                first, same = by_subject[each.subject]
                by_subject[each.subject] = first, replace(same, trials=tuple(sorted({*same.trials, *each.trials})))
            else:
                by_subject[each.subject] = position, each
    # Groups of several base models or templates have a baseline `base` each; a verdict needs names that differ.
    counts = Counter(each.name for _, each in by_subject.values())
    return tuple(
        replace(each, name=each.name if counts[each.name] == 1 else f"{each.name}-{position}")
        for position, each in by_subject.values()
    )


def baseline_count(loaded: LoadedDataset, evaluation: Evaluation) -> int:
    """Return the number of baselines of trials on some data, for any base model."""
    setting = Setting(
        model=BaseModelRef("", ""),
        identity={},
        training=loaded.training.examples,
        drawn=loaded.drawn,
        expected=[example.output for example in loaded.validation.examples] if loaded.validation else (),
        counts=evaluation.baselines.examples,
    )
    return sum(baseline.problem is None for baseline in baselines_of(setting))
