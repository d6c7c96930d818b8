"""The hand-made verdicts keep the rules that real ones keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.comparison import verdicts
from tunerun.comparison.results import Verdict


@pytest.mark.parametrize(
    "make",
    [
        verdicts.demo_verdict,
        verdicts.replicates_verdict,
        verdicts.incomplete_verdict,
        verdicts.failed_verdict,
        verdicts.nothing_held_out_verdict,
        verdicts.cannot_tell_verdict,
        verdicts.large_verdict,
        verdicts.two_sweeps_verdict,
    ],
)
def test_a_made_verdict_agrees_with_itself(make: Callable[[], Verdict]) -> None:
    """Points and trials refer to each other, and a decision to points and baselines that exist."""
    verdict = make()
    for position, point in enumerate(verdict.points):
        assert point.number == position
        assert all(verdict.trials[number].point == position for number in point.trials)
        assert {each.baseline for each in point.against} <= {each.name for each in verdict.baselines}
    assert sum(len(point.trials) for point in verdict.points) == len(verdict.trials)
    assert set(verdict.decision.tied) == {point.number for point in verdict.points if point.is_tied}
    assert verdict.decision.advised in (None, *verdict.decision.tied)
    assert make() == verdict
