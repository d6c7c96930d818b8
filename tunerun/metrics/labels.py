"""Reading answers as labels, and counts of a confusion matrix that add up over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunerun.metrics.base import FloatArray

# Quotes of several languages, and the marks of Markdown's code and emphasis.
_QUOTES = "\"'`*\u201c\u201d\u2018\u2019\u00ab\u00bb"
_STOPS = ".,;:!?"


def label(text: str) -> str:
    """Return the label of a text: case, white space, surrounding quotes and a final full stop are ignored.

    `Positive.`, `"positive"` and `positive` are one label; a label of only such characters is unchanged.
    """
    # Models that were not tuned often answer `Positive.` or `"positive"`; counting these as wrong would measure form.
    folded = " ".join(text.casefold().split())
    return folded.strip(_QUOTES).rstrip(_STOPS).strip(_QUOTES).strip() or folded


def classes_of(expected: Sequence[str]) -> list[str]:
    """Return the labels of expected answers, sorted; any other answer is wrong, and not a class of its own."""
    return sorted({label(text) for text in expected})


def counts(expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
    """Return what each row adds to the counts of its classes.

    Returns:
        [rows, 3 * classes]: by class, whether it was expected, whether it was answered, whether it was both.
    """
    number = {name: index for index, name in enumerate(classes_of(expected))}
    table = np.zeros((3, len(expected), len(number)))
    for row, (right, answer) in enumerate(zip(expected, answers, strict=True)):
        wanted, given = number[label(right)], number.get(label(answer))
        table[0, row, wanted] = 1
        if given is not None:
            table[1, row, given] = 1
            table[2, row, given] = given == wanted
    return np.concatenate(list(table), axis=1)


def by_class(means: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Split means of `counts` into expected, answered and both, [..., classes] each."""
    expected, answered, both = np.split(means, 3, axis=-1)
    return expected, answered, both


def mean_over_present(scores: FloatArray, expected: FloatArray) -> FloatArray:
    """Return the mean over classes.

    Args:
        scores: of each class, [..., classes].
        expected: how often each class was expected, [..., classes]; a class that never was does not count.
    """
    # The metric is defined by the labels that occur among expected answers, and a resample may lack a rare one.
    present = expected > 0
    total = np.sum(np.where(present, scores, 0.0), axis=-1)
    mean: FloatArray = total / np.maximum(present.sum(axis=-1), 1)
    return mean
