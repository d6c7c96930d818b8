"""What a report shows beside the verdict, as plain values: rows, answers, loss curves, configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunerun.examples import Example


@dataclass(frozen=True)
class LossCurve:
    """The losses of one trial, in nats per output token, each with the epoch it belongs to.

    Attributes:
        training: (epochs trained so far, mean loss) for each step, or for groups of steps.
        validation: (epochs trained so far, loss on the held-out rows); empty: not measured.
    """

    training: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ShownAnswers:
    """What a model answered to the held-out rows.

    Attributes:
        texts: one for each row.
        right: whether each of them counts as right.
    """

    texts: tuple[str, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class ConfusionTable:
    """How often each label was answered where each was expected.

    Attributes:
        name: whose answers these are.
        expected: the labels that were expected, one for each row of counts.
        answered: what was answered, one for each column.
    """

    name: str
    expected: tuple[str, ...]
    answered: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ReportSources:
    """Everything of a report that is not in the verdict.

    Attributes:
        rows: the held-out rows, as the first template renders them.
        answers: by subject: a trial's key, or a baseline's subject.
        right_rule: when an answer counts as right, in one sentence.
        curves: by a trial's key.
        training_rows: training examples of each trial, by its key.
        configs: (sweep, YAML of its first trial's config), for each sweep that has trials of its own.
        facts: of the data and the run, as (what, value), in the order they are shown.
        findings: what the plan warned of, one line each.
        confusion: for metrics of labels; empty: another metric, or too many labels.
    """

    rows: tuple[Example, ...] = ()
    answers: Mapping[str, ShownAnswers] = field(default_factory=dict)
    right_rule: str = ""
    curves: Mapping[str, LossCurve] = field(default_factory=dict)
    training_rows: Mapping[str, int] = field(default_factory=dict)
    configs: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    findings: tuple[str, ...] = ()
    confusion: tuple[ConfusionTable, ...] = ()


MOST_CURVE_POINTS = 100
"""Maximum number of points of a training curve: 200 curves are drawn at once, on a screen 1,000 pixels wide."""


def thinned(curve: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return a curve of at most a hundred points: means of equally many neighbours, at the last one's place."""
    # Means and not every nth step: the loss of a single step is noisy.
    size = -(-len(curve) // MOST_CURVE_POINTS)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)] if curve else []
    return tuple((group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups)
