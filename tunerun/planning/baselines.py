"""What the trials of a plan have to beat, once for each base model, template and held-out set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunerun.baselines import Baseline, Setting, baselines_of
from tunerun.dataset import LoadedDataset, TokenLimit
from tunerun.engine.tokens import TokenCounter
from tunerun.errors import NoTurnsError
from tunerun.job import BaseModelRef, Example, ExampleSet
from tunerun.ledger import LOSSES, BaselineRecord
from tunerun.schema import Evaluation


@dataclass(frozen=True)
class PlannedBaseline:
    """A baseline of a plan.

    Attributes:
        name: what tables call it; different from the others'.
        trials: the numbers of the trials that it belongs to: those of its base model, template and held-out set.
        tokens: of the prompts and the expected answers that are yet to be asked for; 0 where it asks no model.
        is_answered: whether all that a run asks of it is in the ledger.
        problem: why it is left out; None: it is not.
    """

    name: str
    baseline: Baseline
    trials: tuple[int, ...]
    tokens: int = 0
    is_answered: bool = False
    problem: str | None = None

    @property
    def subject(self) -> str:
        """The key of its answers in the ledger."""
        return self.baseline.subject

    def record(self) -> BaselineRecord:
        """The baseline as the ledger freezes it."""
        more = {"trials": list(self.trials), "tokens": self.tokens, "problem": self.problem}
        return BaselineRecord(self.subject, self.name, self.baseline.kind, {**self.baseline.document(), **more})

    def to_json(self) -> dict[str, Any]:
        """The baseline as `plan --json` prints it."""
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
        identity: what their baselines' subjects hash; see `Setting`.
        loaded: the data of the first one with the most training examples: what examples are drawn from.
        counts: `evaluation.baselines.examples` of all of them.
        ways: how answers to the validation set are obtained, as the ledger keys them.
        counter: counts the base model's tokens. limit: how many it takes; None: that is not known.
        trials: their numbers. tests: their test sets by digest; the validation set is one.
    """

    model: BaseModelRef
    identity: Mapping[str, Any]
    loaded: LoadedDataset
    counter: TokenCounter
    limit: TokenLimit | None
    counts: dict[int, None] = field(default_factory=dict)
    ways: dict[str, None] = field(default_factory=dict)
    trials: list[int] = field(default_factory=list)
    tests: dict[str, ExampleSet] = field(default_factory=dict)

    def add(self, trial: int, loaded: LoadedDataset, counts: Sequence[int], ways: Sequence[str]) -> None:
        """Take a trial in."""
        self.trials.append(trial)
        self.counts.update(dict.fromkeys(counts))
        self.ways.update(dict.fromkeys(ways))
        if loaded.test is not None:
            self.tests[loaded.test.digest] = loaded.test
        if len(loaded.training.examples) > len(self.loaded.training.examples):
            self.loaded = loaded

    @property
    def validation(self) -> ExampleSet | None:
        """The examples that the baselines answer."""
        return self.loaded.validation

    def setting(self) -> Setting:
        """What the baselines are made from; only the base model where no answers are needed."""
        texts = any(way != LOSSES for way in self.ways)
        return Setting(
            model=self.model,
            identity=self.identity,
            training=self.loaded.training.examples if texts else (),
            drawn=self._drawn(),
            expected=[example.output for example in self.validation.examples] if self.validation else (),
            counts=[count for count in self.counts if self.ways or count == 0],
        )

    def _drawn(self) -> list[Example]:
        """What was drawn of the largest training set, without inputs of any trial's test set."""
        inputs = {_same(example) for test in self.tests.values() for example in test.examples}
        return [example for example in self.loaded.drawn if _same(example) not in inputs]

    def planned(self, is_answered: Callable[[str, str, str], bool]) -> Iterator[PlannedBaseline]:
        """The baselines of these trials, by the names that each has alone.

        Args:
            is_answered: whether the ledger has the answers of a subject to a held-out set, asked in one way.
        """
        tokens: list[int] | None = None
        for baseline in baselines_of(self.setting()):
            ways = [way for way in self.ways if way != LOSSES or baseline.measures_losses]
            open_ways = [
                way
                for way in ways
                if self.validation and not is_answered(baseline.subject, self.validation.digest, way)
            ]
            problem, more = baseline.problem, None
            if open_ways and problem is None:
                try:
                    more = baseline.extra_tokens(self.counter)
                except NoTurnsError as error:
                    problem = str(error)
            needed = 0
            if self.validation is not None and more is not None:
                tokens = tokens or self.counter.count_all(self.validation.examples)
                problem = self._too_long(max(tokens) + more)
                needed = 0 if problem else (sum(tokens) + more * len(tokens)) * len(open_ways)
            yield PlannedBaseline(
                baseline.name, baseline, tuple(self.trials), needed, is_answered=not open_ways, problem=problem
            )

    def _too_long(self, longest: int) -> str | None:
        """Why prompts do not fit the base model, as far as its own tokenizer says so."""
        if self.limit is None or not self.limit.exact or longest <= self.limit.most:
            return None
        return (
            f"its longest prompt and answer have {longest:,} tokens, and the base model takes {self.limit.most:,}; "
            "lower evaluation.baselines.examples"
        )


def _same(example: Example) -> tuple[str, ...]:
    """What is equal for inputs that differ in capitals and white space only, whatever the system message is."""
    said = [text for turn in example.earlier for text in (turn.text_input, turn.output)]
    return tuple(" ".join(text.casefold().split()) for text in (*said, example.text_input))


def planned_baselines(
    groups: Sequence[Group], is_answered: Callable[[str, str, str], bool]
) -> tuple[PlannedBaseline, ...]:
    """All baselines of a plan: where groups have different ones of a name, each with its group's number behind it."""
    found: dict[str, tuple[int, PlannedBaseline]] = {}
    for position, group in enumerate(groups):
        for each in group.planned(is_answered):
            if each.subject in found:  # a majority answer to rows that two templates render alike
                first, same = found[each.subject]
                found[each.subject] = first, replace(same, trials=tuple(sorted({*same.trials, *each.trials})))
            else:
                found[each.subject] = position, each
    counts = Counter(each.name for _, each in found.values())
    return tuple(
        replace(each, name=each.name if counts[each.name] == 1 else f"{each.name}-{position}")
        for position, each in found.values()
    )


def baseline_count(loaded: LoadedDataset, evaluation: Evaluation) -> int:
    """Return how many baselines trials on some data will have, whatever their base model is."""
    setting = Setting(
        model=BaseModelRef("", ""),
        identity={},
        training=loaded.training.examples,
        drawn=loaded.drawn,
        expected=[example.output for example in loaded.validation.examples] if loaded.validation else (),
        counts=evaluation.baselines.examples,
    )
    return sum(baseline.problem is None for baseline in baselines_of(setting))
