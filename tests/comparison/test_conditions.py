"""Conditions on a verdict: what is read, what holds, and why one does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.comparison import verdicts
from tunerun.comparison.conditions import Candidate, parse, unmet
from tunerun.comparison.results import Outcome
from tunerun.errors import ConfigError

DEMO = verdicts.demo_verdict()


def problems(*texts: str, of: Candidate | None = None) -> list[str]:
    return unmet(parse(texts), of or Candidate(DEMO, DEMO.trials[0]))


@pytest.mark.parametrize(
    "text",
    [
        "better than every baseline", "better than base+4", "eval/exact_match >= 0.6", "eval/exact_match>=60%",
        "eval/exact_match  >  60 %", "eval/chrf >= 60", "validation/loss < 1", "train/seconds <= 1e3",
    ],
)  # fmt: skip
def test_conditions_that_hold(text: str) -> None:
    """White space in a condition is ignored, and a share may be written in per cent."""
    assert problems(text) == []


def test_several_conditions_have_to_hold_together() -> None:
    """Each condition that does not hold has a line of its own."""
    assert problems("eval/exact_match >= 99 %", "not tied", "test set opened", "better than base") == [
        "eval/exact_match >= 99 %: it is 62 %",
        "not tied: point 0 cannot be distinguished from 1, 2, 3",
        "test set opened: it was not, for this point; `tunerun compare --final` opens it",
    ]


def test_a_baseline_that_is_not_beaten_is_named_with_the_figures() -> None:
    """The reason names the difference and p; of a baseline that was never measured it says so."""
    point = DEMO.points[0]
    against = (replace(point.against[0], outcome=Outcome.CANNOT_TELL, value=0.04, p=0.7), *point.against[1:])
    unmeasured = replace(DEMO.baselines[2], estimates={}, problem="the service refused it")
    verdict = replace(
        DEMO, points=(replace(point, against=against), *DEMO.points[1:]), baselines=(*DEMO.baselines[:2], unmeasured)
    )
    assert problems("better than every baseline", of=Candidate(verdict, verdict.trials[0])) == [
        "better than every baseline: it cannot be distinguished from base by eval/exact_match (+4 points, p = 0.7000)",
        "better than every baseline: majority is not measured (the service refused it)",
    ]


def test_the_test_set_counts_once_it_was_opened_for_the_point() -> None:
    """A measure on the test set is called `test/...`, and exists once the test set was opened for the point."""
    worse = replace(DEMO.trials[0], metrics={"eval/exact_match": 0.5})
    opened = Candidate(DEMO, DEMO.trials[0], replace(DEMO, trials=(worse,)))
    assert problems("test set opened", "test/exact_match >= 50 %", of=opened) == []
    assert problems("test/exact_match > 0.5", of=opened) == ["test/exact_match > 0.5: it is 50 %"]
    assert problems("test/exact_match > 0.5")[0].startswith("test/exact_match > 0.5: the test set was not opened")


def test_a_condition_on_a_missing_measure_does_not_hold() -> None:
    """The reason lists the measures that the trial has."""
    [problem] = problems("eval/bleu >= 3")
    assert problem.startswith("eval/bleu >= 3: the trial has no eval/bleu; it has eval/chrf, eval/exact_match, ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eval/exact_match => 0.6", "is not a condition; allowed: 'better than every baseline', "),
        ("eval/exact_match >= nan", "is not a condition"),
        ("__import__('os')", "is not a condition"),
        ("better than base+9", "has no such baseline; it has base, base\\+4, majority"),
        ("eval/exact_match >= 60", "is a share of 1; write 60 %"),
        ("eval/chrf >= 60 %", "is not a share; give the number without %"),
    ],
)
def test_what_is_not_a_condition_is_refused(text: str, message: str) -> None:
    """The error says which conditions are allowed."""
    with pytest.raises(ConfigError, match=message):
        problems(text)


def test_all_wrong_conditions_are_reported_at_once() -> None:
    """The error has a line for each text that is not a condition."""
    with pytest.raises(ConfigError) as refused:
        parse(["a", "not tied", "b"])
    assert [problem[:13] for problem in refused.value.problems] == ["--require 'a'", "--require 'b'"]
