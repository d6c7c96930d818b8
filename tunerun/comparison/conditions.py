"""Conditions of `tunerun promote --require`, parsed strictly and checked against a verdict.

better than every baseline        every baseline of the trial is measured, and its point is better than each
better than base+4                the same for one of them
eval/exact_match >= 60 %          any measure of the trial itself; >, >=, <, <=; a share as 0.6 or 60 %
test/exact_match >= 0.6           the same on the test set
not tied                          no other point is as good as its own, as far as the rows can show
test set opened                   the test set was opened for its point
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunerun.comparison import numbers
from tunerun.comparison.results import BaselineResult, Measure, Outcome, PointResult, TrialResult, Verdict
from tunerun.errors import ConfigError
from tunerun.metrics import Unit

_EVERY = "every baseline"
_ON_VALIDATION, _ON_TEST = "eval/", "test/"

_ALLOWED = (
    "allowed: 'better than every baseline', 'better than BASELINE' (such as base+4), 'MEASURE >= NUMBER' (or >, <, <=; "
    "a share also as 60 %), 'not tied', 'test set opened'"
)


@dataclass(frozen=True)
class Candidate:
    """A trial whose conditions are checked.

    Attributes:
        verdict: of its sweep, on the validation set.
        on_test: the verdict on the test set; None: the test set was not opened for its point.
    """

    verdict: Verdict
    trial: TrialResult
    on_test: Verdict | None = None

    @property
    def point(self) -> PointResult:
        """The point of the trial."""
        return self.verdict.points[self.trial.point]

    @property
    def baselines(self) -> list[BaselineResult]:
        """The baselines that the trial is compared with."""
        place = self.verdict.trials.index(self.trial)
        return [each for each in self.verdict.baselines if place in each.trials]


class Condition(Protocol):
    """A parsed condition of `--require`."""

    def problems(self, candidate: Candidate) -> Iterator[str]:
        """Yield each reason why it does not hold; nothing if it holds."""
        ...


def parse(texts: Sequence[str]) -> list[Condition]:
    """Parse conditions.

    Raises:
        ConfigError: some are not conditions; names all of them and what is allowed.
    """
    conditions, problems = [], []
    for text in texts:
        matches = ((make, pattern.fullmatch(" ".join(text.split()))) for pattern, make in _FORMS)
        condition = next((make(match) for make, match in matches if match is not None), None)
        if condition is None:
            problems.append(f"--require {text!r}: is not a condition; {_ALLOWED}")
        else:
            conditions.append(condition)
    if problems:
        raise ConfigError(problems)
    return conditions


def unmet(conditions: Sequence[Condition], candidate: Candidate) -> list[str]:
    """Return why conditions do not hold, one line each; empty: all of them hold.

    Raises:
        ConfigError: a condition names a baseline that the sweep lacks, or a share above 1.
    """
    return [problem for condition in conditions for problem in condition.problems(candidate)]


@dataclass(frozen=True)
class _Better:
    name: str

    def problems(self, candidate: Candidate) -> Iterator[str]:
        verdict, text = candidate.verdict, f"better than {self.name}"
        baselines = {each.name: each for each in candidate.baselines}
        # A name that the sweep lacks is a typing mistake, and not a condition that does not hold.
        if self.name != _EVERY and self.name not in baselines:
            listed = ", ".join(baselines) or "none"
            raise ConfigError(
                f"--require '{text}': the sweep has no such baseline; it has {listed}, or write {_EVERY!r}"
            )
        if not baselines:
            yield f"{text}: the sweep has no baseline"
        for each in baselines.values() if self.name == _EVERY else [baselines[self.name]]:
            # A baseline that was not measured was not beaten either.
            if verdict.metric is None or verdict.metric not in each.estimates:
                why = f" ({each.problem})" if each.problem else ""
                yield f"{text}: {each.name} is not measured{why}"
                continue
            difference = next((one for one in candidate.point.against if one.baseline == each.name), None)
            if difference is None:
                yield f"{text}: trial {candidate.trial.record.number} was not compared with {each.name}"
            elif difference.outcome is not Outcome.BETTER:
                unit = _unit(verdict, verdict.metric)
                written = numbers.difference(difference.value, unit, verdict.decision.rows)
                points = " points" if unit is Unit.SHARE else ""
                p = numbers.p_value(difference.p)
                yield (
                    f"{text}: {_OUTCOMES[difference.outcome]} {each.name} by {verdict.metric} ({written}{points}, "
                    f"p {p if p.startswith('<') else f'= {p}'})"
                )


_OUTCOMES = {
    Outcome.WORSE: "it is worse than",
    Outcome.EQUIVALENT: "it is equal to",
    Outcome.CANNOT_TELL: "it cannot be distinguished from",
    Outcome.NONE: "it was not compared with",
}


@dataclass(frozen=True)
class _Threshold:
    measure: str
    sign: str
    number: float
    is_percent: bool

    def problems(self, candidate: Candidate) -> Iterator[str]:
        text = f"{self.measure} {self.sign} {self.number:g}{' %' if self.is_percent else ''}"
        is_on_test = self.measure.startswith(_ON_TEST)
        # `test/x` is `eval/x` in the verdict on the test set.
        verdict = candidate.on_test if is_on_test else candidate.verdict
        if verdict is None:
            yield f"{text}: the test set was not opened for it; `tunerun compare --final` opens it"
            return
        trial = next(each for each in verdict.trials if each.record.number == candidate.trial.record.number)
        name = _ON_VALIDATION + self.measure.removeprefix(_ON_TEST) if is_on_test else self.measure
        unit = _unit(verdict, name)
        if self.is_percent and unit is not Unit.SHARE:
            raise ConfigError(f"--require '{text}': {self.measure} is not a share; give the number without %")
        if unit is Unit.SHARE and not self.is_percent and self.number > 1:
            # "60" for "60 %" would be refused by every model, and the reason would be hard to see.
            raise ConfigError(f"--require '{text}': {self.measure} is a share of 1; write {self.number:g} %")
        limit = self.number / 100 if self.is_percent else self.number
        value = trial.metrics.get(name)
        if value is None:
            measures = sorted(trial.metrics) if not is_on_test else [m.name for m in verdict.measures]
            yield f"{text}: the trial has no {self.measure}; it has {', '.join(measures) or 'none'}"
        elif not _SIGNS[self.sign](value, limit):
            yield f"{text}: it is {numbers.measure(value, unit, verdict.decision.rows)}"


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True)
class _NotTied:
    def problems(self, candidate: Candidate) -> Iterator[str]:
        verdict, own = candidate.verdict, candidate.trial.point
        tied = verdict.decision.tied
        if own not in tied:
            yield f"not tied: point {own} is not among the best, or nothing was compared"
        elif len(tied) > 1:
            others = ", ".join(str(number) for number in tied if number != own)
            yield f"not tied: point {own} cannot be distinguished from {others}"


@dataclass(frozen=True)
class _Opened:
    def problems(self, candidate: Candidate) -> Iterator[str]:
        if candidate.on_test is None:
            yield "test set opened: it was not, for this point; `tunerun compare --final` opens it"


def _unit(verdict: Verdict, name: str) -> Unit:
    measures: dict[str, Measure] = {each.name: each for each in verdict.measures}
    return measures[name].unit if name in measures else Unit.NUMBER


_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Condition]], ...] = (
    # The name of a baseline may have spaces: `base+4 text`.
    (re.compile(r"better than (\S.*)"), lambda match: _Better(match[1])),
    (
        re.compile(rf"([\w./@:-]+) ?(>=|<=|>|<) ?{_NUMBER} ?(%?)"),
        lambda match: _Threshold(match[1], match[2], float(match[3]), bool(match[4])),
    ),
    (re.compile("not tied|no tie"), lambda _match: _NotTied()),
    (re.compile("test set opened"), lambda _match: _Opened()),
)
