"""The baseline `majority`: always the most frequent output of the training examples. It asks no model.

It exists where an output occurs twice among the training examples: where answers are labels, a model that has learned
nothing but their frequencies is as good as this. On a held-out set with three labels it has 33 %, and the untuned base
model 0 % (measured 2026-11-25): against the base model alone, a tuned model of 44 % looked like a success.
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
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions

KIND = "majority"


@dataclass(frozen=True)
class Majority:
    """The same answer to everything.

    Attributes:
        count: number of training examples with this output. of: number of all training examples.
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
        """Return the answer once for each input; no model is asked."""
        return [self.answer] * len(inputs)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Return the texts unchanged; not called, because no model is asked."""
        return list(texts)

    def choose(self, _backend: Backend, inputs: Sequence[Input], _choices: Sequence[str]) -> list[str]:
        """Return the answer once for each input, even if the choices lack it: it is then wrong."""
        return [self.answer] * len(inputs)

    def losses(self, _backend: Backend, _rows: Sequence[Example]) -> list[float]:
        """Refuse: an answer without a model has no probabilities; `measures_losses` is false.

        Raises:
            InputError: always.
        """
        raise InputError("the majority answer has no losses; compare it by a metric of answers, such as accuracy")

    def extra_tokens(self, _counter: TokenCounter) -> None:
        """Return None: it asks no model."""
        return

    def document(self) -> dict[str, Any]:
        """Return the answer and how frequent it is, as JSON values."""
        return {"model": "", "answer": self.answer, "count": self.count, "of": self.of}


def baselines(setting: Setting) -> list[Baseline]:
    """Return the most frequent output, the first in the alphabet of several; nothing if no output occurs twice."""
    counts = Counter(example.output.strip() for example in setting.training)
    if not counts:
        return []
    answer, count = min(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    # Outputs that are all different are texts and not labels, so none of them is an answer to anything else.
    if count < 2:
        return []
    # What is expected is part of the subject: two templates with other outputs have two majority answers to measure.
    subject = digest({"kind": KIND, "answer": answer, "expected": digest(list(setting.expected))})
    return [Majority(subject, answer, count, len(setting.training))]


def restored(subject: str, document: Mapping[str, Any]) -> Baseline:
    """Return the baseline that wrote a document."""
    return Majority(subject, document["answer"], document["count"], document["of"])


def words(_document: Mapping[str, Any]) -> str:
    """Return the baseline's name in a sentence."""
    # Without the answer, which may be long, and which is data that a sentence should not show.
    return "always giving the most frequent answer"
