"""The confusion matrix of labels, with precision, recall and F1 of each label, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.metrics.labels import classes_of, label

MOST_CLASSES = 50
"""Labels up to which a matrix can be read; above it, expected answers are more likely free text."""


@dataclass(frozen=True)
class LabelResult:
    """The results of one label.

    Attributes:
        rows: how often it was expected. answered: how often it was the answer. right: how often it was both.
    """

    label: str
    rows: int
    answered: int
    right: int

    @property
    def precision(self) -> float:
        """Share of its answers that are right; 0 where it was never the answer."""
        return self.right / self.answered if self.answered else 0.0

    @property
    def recall(self) -> float:
        """Share of its rows that are right."""
        return self.right / self.rows

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / (self.rows + self.answered)


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix.

    Attributes:
        labels: those of the expected answers, sorted.
        counts: a row for each expected label; its columns are the labels as answers, and then all other answers.
        others: the answers that are none of the labels, and how often, the most frequent first.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, expected: Sequence[str], answers: Sequence[str]) -> Confusion:
        """Count pairs of expected answers and answers, read as labels as by the metric `accuracy`."""
        labels = classes_of(expected)
        number = {name: index for index, name in enumerate(labels)}
        counts = [[0] * (len(labels) + 1) for _ in labels]
        others: Counter[str] = Counter()
        for right, answer in zip(map(label, expected), map(label, answers), strict=True):
            counts[number[right]][number.get(answer, len(labels))] += 1
            if answer not in number:
                others[answer] += 1
        return cls(tuple(labels), tuple(map(tuple, counts)), tuple(others.most_common()))

    @property
    def is_readable(self) -> bool:
        """Whether there are few enough labels, each often enough, to be shown as a matrix."""
        rows = sum(map(sum, self.counts))
        return 2 <= len(self.labels) <= MOST_CLASSES and rows >= 2 * len(self.labels)

    def classes(self) -> tuple[LabelResult, ...]:
        """A line for each label."""
        return tuple(
            LabelResult(name, sum(row), sum(other[index] for other in self.counts), row[index])
            for index, (name, row) in enumerate(zip(self.labels, self.counts, strict=True))
        )
