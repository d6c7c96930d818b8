"""The confusion matrix of labels as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.metrics.labels import classes_of, label

MOST_CLASSES = 50
"""Maximum number of labels of a readable matrix; with more, the expected answers are probably free text."""


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix.

    Attributes:
        labels: of the expected answers, sorted.
        counts: a row for each expected label; its columns are the labels as answers, and then all other answers.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, expected: Sequence[str], answers: Sequence[str]) -> Confusion:
        """Count pairs of expected answers and answers, read as labels as by the metric `accuracy`."""
        labels = classes_of(expected)
        number = {name: index for index, name in enumerate(labels)}
        counts = [[0] * (len(labels) + 1) for _ in labels]
        for right, answer in zip(map(label, expected), map(label, answers), strict=True):
            # Every answer that is not an expected label is in the last column, whatever it says.
            counts[number[right]][number.get(answer, len(labels))] += 1
        return cls(tuple(labels), tuple(map(tuple, counts)))

    @property
    def is_readable(self) -> bool:
        """Whether there are few enough labels, each often enough, to be shown as a matrix."""
        # With fewer than two rows for each label the expected answers are texts of their own.
        rows = sum(map(sum, self.counts))
        return 2 <= len(self.labels) <= MOST_CLASSES and rows >= 2 * len(self.labels)
