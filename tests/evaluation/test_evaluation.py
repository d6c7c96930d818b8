"""What answers come to."""

from __future__ import annotations

import pytest

from tunerun.evaluation.metrics import measure
from tunerun.job import Example
from tunerun.ledger import Answers, TrialRecord

TRIAL = TrialRecord(0, "k", (), "a", "d", {}, 1, 1, {}, {"evaluation": {"metrics": ["exact_match", "later_metric"]}})


def test_an_evaluation_has_the_share_and_every_prediction() -> None:
    """Two of three right is two thirds, and each answer is kept beside what it should be."""
    examples = [Example("1", "2"), Example("2", "3"), Example("3", "4")]
    evaluation = measure(TRIAL, examples, Answers(("2", "3", "5"), 1.0))
    assert evaluation.metrics == {"eval/exact_match": pytest.approx(2 / 3)}
    assert [(p.expected, p.predicted, p.exact_match) for p in evaluation.predictions][2] == ("4", "5", False)


def test_fewer_answers_than_examples_are_an_error() -> None:
    """A lost answer is never scored as something else."""
    with pytest.raises(ValueError, match="zip"):
        measure(TRIAL, [Example("1", "2"), Example("2", "3")], Answers(("2",), 1.0))
