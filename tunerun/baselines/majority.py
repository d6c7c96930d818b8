"""The baseline `majority`: always the most frequent output of the training examples. It asks no model.

It is there where an output occurs twice among the training examples: where answers are labels, a model that has learnt
nothing but their frequencies is as good as this. On a three-label set that was kept back, it has 33 % where the untuned
base model has 0 % (measured 2026-11-25).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.backends.base import Backend
from tunerun.baselines.base import Baseline, Setting
from tunerun.digest import digest
from tunerun.engine.token_counter import TokenCounter
from tunerun.errors import InputError
from tunerun.job import Example, GenerateOptions, Input

KIND = "majority"


@dataclass(frozen=True)
class Majority:
    """One answer to everything.

    Attributes:
        count: how many of the training examples have it. of: how many there are.
    """

    subject: str
    answer: str
    count: int
    of: int
    kind = KIND
    measures_losses = False
    name = "majority"
    problem = None

    def asks(self, inputs: Sequence[Input], _options: GenerateOptions) -> list[str]:
        """The answer, as often as it is asked for; no model is asked."""
        return [self.answer] * len(inputs)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Never needed, as no model is asked."""
        return list(texts)

    def choose(self, _backend: Backend, inputs: Sequence[Input], _choices: Sequence[str]) -> list[str]:
        """The same; a list of choices that lacks it makes it wrong and not another."""
        return [self.answer] * len(inputs)

    def losses(self, _backend: Backend, _rows: Sequence[Example]) -> list[float]:
        """Refused: an answer that is always given has no probabilities, and `measures_losses` says so."""
        raise InputError("the majority answer has no losses; compare it by a metric of answers, such as accuracy")

    def extra_tokens(self, _counter: TokenCounter) -> None:
        """None: it asks no model."""
        return

    def document(self) -> dict[str, Any]:
        """The answer, and how frequent it is."""
        return {"model": "", "answer": self.answer, "count": self.count, "of": self.of}


def baselines(setting: Setting) -> list[Baseline]:
    """The most frequent output; of several the first in the alphabet. None where no output occurs twice."""
    counts = Counter(example.output.strip() for example in setting.training)
    if not counts:
        return []
    answer, count = min(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    if count < 2:
        return []
    # What is expected is part of the subject: two templates with other outputs have two majority answers to measure.
    subject = digest({"kind": KIND, "answer": answer, "expected": digest(list(setting.expected))})
    return [Majority(subject, answer, count, len(setting.training))]


def restored(subject: str, document: Mapping[str, Any]) -> Baseline:
    """The baseline that wrote a document."""
    return Majority(subject, document["answer"], document["count"], document["of"])


def words(_document: Mapping[str, Any]) -> str:
    """The answer itself may be long, and may be data that a sentence should not show."""
    return "always giving the most frequent answer"
