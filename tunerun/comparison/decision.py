"""What tables of scores allow to say of tuned points and their baselines: pure, seeded, the one place that decides.

The order of the procedure, and what each part was measured to do, is in `tunerun.statistics`. The outcome is about one
point: the cheapest of the tied set that is better than every baseline, and where none is, the best of the tied set. A
base model costs nothing to tune, so where no point was shown to be better, none is advised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from tunerun.comparison.arms import DUST, BaselineScores, PointScores, Units, is_binary, within
from tunerun.comparison.costs import cheapest
from tunerun.comparison.results import Decision, Difference, Outcome
from tunerun.metrics import Metric, Unit
from tunerun.metrics.base import RANGES, FloatArray
from tunerun.statistics import (
    FamilyTest,
    SeedVariance,
    SettingsTest,
    bias_corrected,
    critical_value,
    few_rows_decide,
    holm,
    max_t,
    max_t_of_swaps,
    mid_p,
    pooled,
    rows_for_equality,
    rows_needed,
    rows_needed_for_mean,
    score_interval,
    smallest_visible,
    tango,
    tied_set_p,
    tied_settings_p,
    two_way,
    wilson,
)
from tunerun.statistics.flips import FLIPS
from tunerun.statistics.intervals import Interval
from tunerun.statistics.winner import RESAMPLES


@dataclass(frozen=True)
class Rules:
    """What an experiment sets of a comparison: `evaluation.alpha`, `evaluation.worth`, and chance's own numbers."""

    alpha: float = 0.05
    worth: float = 0.0
    flips: int = FLIPS
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """A decision, and what it was made of: differences and p values of the tied set by the compared points' order."""

    decision: Decision
    differences: tuple[tuple[Difference, ...], ...]
    tied_p: tuple[float, ...]


def decide(
    metric: Metric,
    points: Sequence[PointScores],
    baselines: Sequence[BaselineScores],
    clusters: Sequence[int] | None = None,
    rules: Rules | None = None,
) -> Comparison:
    """Compare points with baselines and with each other on the same rows.

    Args:
        points: at least one.
        baselines: those that are measured.
        clusters: of each row, numbered from 0; None: every row is its own.
    """
    return _Table(
        metric, tuple(points), tuple(baselines), Units.of(points[0].scores.shape[1], clusters), rules or Rules()
    ).comparison


@dataclass(frozen=True)
class _Pair:
    """A point against a baseline, higher is better.

    Attributes:
        statistic: the difference in standard errors; p: corrected.
        settings: the test with the chance of seeds; None: the pair is about these trained models.
    """

    point: int
    baseline: int
    units: FloatArray
    statistic: float
    p: float
    holm_p: float
    few_rows_decide: bool
    settings: SettingsTest | None = None

    @property
    def difference(self) -> float:
        return float(self.units.mean())

    @property
    def wins_and_losses(self) -> tuple[int, int]:
        return int(np.sum(self.units > 0)), int(np.sum(self.units < 0))


@dataclass(frozen=True)
class _Table:
    metric: Metric
    points: tuple[PointScores, ...]
    baselines: tuple[BaselineScores, ...]
    units: Units
    rules: Rules

    @cached_property
    def comparison(self) -> Comparison:
        differences = [self._difference(pair) for pair in self._pairs]
        width = len(self.baselines)
        by_point = tuple(tuple(differences[p * width : (p + 1) * width]) for p in range(len(self.points)))
        return Comparison(self._decision(by_point), by_point, self._tied_p)

    @cached_property
    def _point_sums(self) -> list[FloatArray]:
        return [self.units.sums(point.scores) for point in self.points]

    @cached_property
    def _baseline_sums(self) -> list[FloatArray]:
        return [self.units.sums(baseline.scores[None]) for baseline in self.baselines]

    @cached_property
    def _scores(self) -> list[FloatArray]:
        """Scores of each point, [seeds, units]."""
        return [self.units.scores(self.metric, sums) for sums in self._point_sums]

    @cached_property
    def _means(self) -> FloatArray:
        """Mean scores over seeds, [units, points]."""
        return np.stack([scores.mean(axis=0) for scores in self._scores], axis=1)

    @cached_property
    def _is_binary(self) -> bool:
        """Whether every difference is that of right and wrong rows."""
        tables = [*(point.scores for point in self.points), *(baseline.scores for baseline in self.baselines)]
        return (
            not self.metric.is_corpus
            and self.units.clusters is None
            and all(len(point.scores) == 1 for point in self.points)
            and all(is_binary(table) for table in tables)
        )

    @cached_property
    def _seeds(self) -> list[int]:
        return [len(point.scores) for point in self.points]

    @cached_property
    def _seed_variance(self) -> SeedVariance | None:
        """The variance between seeds; None: no point has two seeds."""
        return pooled(self._scores) if max(self._seeds) > 1 and self.units.count > 1 else None

    @cached_property
    def _family(self) -> int:
        return len(self.points) * len(self.baselines)

    @cached_property
    def _differences(self) -> FloatArray:
        """Differences of every point to every baseline, [units, points * baselines]."""
        baselines = [self.units.scores(self.metric, sums)[0] for sums in self._baseline_sums]
        if not baselines:
            return np.zeros((self.units.count, 0))
        table = self._means[:, :, None] - np.stack(baselines, axis=1)[:, None, :]
        return np.asarray(table.reshape(self.units.count, -1).round(DUST + 3))

    @cached_property
    def _test(self) -> tuple[float, float]:
        """The critical value of the family's intervals, and the smallest p that its rows allow."""
        if self._seed_variance is not None:
            return critical_value(self.rules.alpha), 0.5**self.units.count
        test = self._family_test
        # With few live rows the flips' own value is below that of one comparison; an interval is never narrower.
        least = critical_value(self.rules.alpha)
        z = test.critical_value if test.critical_value < inf else critical_value(self.rules.alpha / self._family)
        return max(least, z) if self._family > 1 or not self._is_binary else least, test.smallest_p

    @cached_property
    def _family_test(self) -> FamilyTest:
        rules = self.rules
        if not self.metric.is_corpus:
            return max_t(self._differences, alpha=rules.alpha, flips=rules.flips, seed=rules.seed)
        return max_t_of_swaps(
            np.stack([sums.mean(axis=0) for sums in self._point_sums]),
            np.stack([sums[0] for sums in self._baseline_sums]),
            self.units.rows,
            self.metric.value,
            alpha=rules.alpha,
            flips=rules.flips,
            seed=rules.seed,
        )

    @cached_property
    def _pairs(self) -> list[_Pair]:
        if not self._family:
            return []
        columns = [(p, q) for p in range(len(self.points)) for q in range(len(self.baselines))]
        rows = self._differences
        if self._seed_variance is not None:
            tests = [
                two_way(rows[:, column], self._seed_variance, [self._seeds[p]]) for column, (p, _) in enumerate(columns)
            ]
            # As with flips, fewer than five clusters decide nothing, however alike they are.
            corrected = [max(p, self._test[1]) for p in holm([test.p for test in tests])]
            few = few_rows_decide(rows)
            return [
                _Pair(p, q, rows[:, c], tests[c].statistic, corrected[c], corrected[c], few[c], tests[c])
                for c, (p, q) in enumerate(columns)
            ]
        family, sign = self._family_test, 1.0
        if self.metric.is_corpus and not self.metric.higher_is_better:
            sign = -1.0
        single = family.single_p
        p_values = family.p_values
        if self._is_binary:
            single = tuple(mid_p(int(np.sum(rows[:, c] > 0)), int(np.sum(rows[:, c] < 0))) for c in range(len(columns)))
            p_values = single if len(columns) == 1 else p_values
        corrected = holm(single)
        return [
            _Pair(p, q, rows[:, c], sign * family.statistics[c], p_values[c], corrected[c], family.few_rows_decide[c])
            for c, (p, q) in enumerate(columns)
        ]

    def _interval(self, pair: _Pair, z: float) -> Interval:
        """Of a difference, higher is better."""
        units, top = self.units.count, RANGES.get(self.metric.unit, inf)
        if pair.settings is not None:
            reach = pair.settings.reach(self.rules.alpha, self._family)
            low, high = pair.difference - reach, pair.difference + reach
        elif self._is_binary:
            return tango(*pair.wins_and_losses, self.units.rows, z)
        else:
            low, high = score_interval(pair.difference, float(pair.units.std()), units, z)
        if high - low < 10**-DUST and top < inf:
            # Rows that do not differ do not prove that none would: the reach of Tango's without a discordant row.
            reach = top * z * z / (units + z * z)
            low, high = low - reach, high + reach
        return max(low, -top), min(high, top)

    def _outcome(self, pair: _Pair) -> Outcome:
        """In the order that lets "equal" and "better" meet least: worse, better, equal, cannot tell.

        "Equal" is said by Tango's interval alone: the others call points equal that are not (up to 48 % of worlds).
        """
        rules = self.rules
        if pair.p <= rules.alpha and pair.statistic != 0:
            return Outcome.WORSE if pair.statistic < 0 else Outcome.BETTER
        if rules.worth > 0 and self._is_binary:
            low, high = tango(*pair.wins_and_losses, self.units.rows, critical_value(2 * rules.alpha))
            if -rules.worth < low and high < rules.worth:
                return Outcome.EQUIVALENT
        return Outcome.CANNOT_TELL

    def _difference(self, pair: _Pair) -> Difference:
        low, high = self._interval(pair, self._test[0])
        if not self.metric.higher_is_better:
            low, high = -high, -low
        wins, losses = pair.wins_and_losses if self._is_binary else (None, None)
        return Difference(
            point=self.points[pair.point].number,
            baseline=self.baselines[pair.baseline].name,
            value=pair.difference if self.metric.higher_is_better else -pair.difference,
            low=low,
            high=high,
            p=pair.p,
            holm_p=pair.holm_p,
            outcome=self._outcome(pair),
            wins=wins,
            losses=losses,
        )

    @cached_property
    def _tied_p(self) -> tuple[float, ...]:
        if self._seed_variance is not None:
            found = tied_settings_p(self._means, self._seed_variance, self._seeds)
            return tuple(max(p, self._test[1]) for p in found)
        return tuple(tied_set_p(self._means, flips=self.rules.flips, seed=self.rules.seed))

    def _decision(self, differences: tuple[tuple[Difference, ...], ...]) -> Decision:
        rules = self.rules
        tied = [place for place, p in enumerate(self._tied_p) if p > rules.alpha]
        values = self._means.mean(axis=0).round(DUST)

        def ranked(place: int) -> tuple[float, int, int]:
            return -values[place], self.points[place].tokens, place

        def advised(places: Sequence[int]) -> int:
            least = cheapest([self.points[place] for place in places])
            return min((place for place in places if any(self.points[place] is each for each in least)), key=ranked)

        best = min(tied, key=ranked)
        decision = Decision(
            outcome=Outcome.NONE,
            tied=tuple(self.points[place].number for place in tied),
            metric=f"eval/{self.metric.name}",
            alpha=rules.alpha,
            worth=rules.worth,
            family=self._family,
            rows=self.units.rows,
            clusters=None if self.units.clusters is None else self.units.count,
            about=self.points[best].number,
            seeds=self._seeds[best],
            nothing_right=not self.metric.is_corpus and self.metric.higher_is_better and not self._has_a_right_answer,
            rows_for_equality=rows_for_equality(rules.worth, rules.alpha) if rules.worth > 0 else None,
        )
        decision = self._with_corrected(decision, best)
        if not self.baselines:
            return decision if decision.nothing_right else replace(decision, advised=self.points[advised(tied)].number)
        proven = [p for p in tied if all(each.outcome is Outcome.BETTER for each in differences[p])]
        place = advised(proven) if proven else best
        hardest = self._hardest(place, differences[place])
        found = differences[place][hardest]
        pair = self._pairs[place * len(self.baselines) + hardest]
        return replace(
            decision,
            outcome=found.outcome,
            advised=self.points[place].number if proven else None,
            about=self.points[place].number,
            seeds=self._seeds[place],
            against=found.baseline,
            difference=found.value,
            low=found.low,
            high=found.high,
            p=found.p,
            smallest_visible=self._smallest_visible(hardest),
            rows_needed=self._rows_needed(pair) if found.outcome is Outcome.CANNOT_TELL else None,
            smallest_p=self._test[1],
            few_rows_decide=pair.few_rows_decide,
        )

    def _hardest(self, place: int, differences: Sequence[Difference]) -> int:
        """The baseline that is hardest to beat for a point: by the statistic of the test, then by the difference.

        One that it was not shown to be better than is harder than any other.
        """
        width = len(self.baselines)
        pairs = self._pairs[place * width : (place + 1) * width]

        def ease(q: int) -> tuple[bool, float, float, int]:
            is_beaten = differences[q].outcome is Outcome.BETTER
            return is_beaten, round(pairs[q].statistic, DUST), pairs[q].difference, q

        return min(range(width), key=ease)

    @property
    def _has_a_right_answer(self) -> bool:
        tables = [*(point.scores for point in self.points), *(baseline.scores for baseline in self.baselines)]
        return any(bool(table.any()) for table in tables)

    def _with_corrected(self, decision: Decision, best: int) -> Decision:
        """With what the best point's own value is without the luck of having been chosen, with an interval there."""
        metric, units = self.metric, self.units
        value = bias_corrected(
            np.stack([sums.mean(axis=0) for sums in self._point_sums], axis=1),
            sizes=units.sizes,
            value=metric.value if metric.is_corpus else None,
            higher_is_better=metric.higher_is_better,
            resamples=self.rules.resamples,
            seed=self.rules.seed,
        )
        if metric.unit is Unit.SHARE and not metric.is_corpus:
            low, high = wilson(min(1.0, max(0.0, value)), units.count, self.rules.alpha)
        else:
            deviation = float(self._means[:, best].std())
            low, high = score_interval(value, deviation, units.count, critical_value(self.rules.alpha))
            low, high = within(metric, low, high)
        return replace(decision, corrected=value, corrected_low=low, corrected_high=high)

    def _smallest_visible(self, hardest: int) -> float | None:
        """For the baseline's own value; known for shares, of which more is better."""
        if self.metric.unit is not Unit.SHARE or not self.metric.higher_is_better:
            return None
        value = float(self.metric.value(self.baselines[hardest].scores.mean(axis=0)))
        accuracy = min(1.0, max(0.0, value))
        return smallest_visible(self.units.count, accuracy, comparisons=self._family, alpha=self.rules.alpha)

    def _rows_needed(self, pair: _Pair) -> int | None:
        """How many rows would show the difference that was seen; None: none was seen, or rows do not help."""
        difference = abs(pair.difference)
        if difference < 10**-DUST:
            return None
        family, alpha = self._family, self.rules.alpha
        if self._is_binary:
            lost = min(pair.wins_and_losses) / self.units.rows
            needed: int | None = rows_needed(difference, lost, comparisons=family, alpha=alpha)
        else:
            variance = self._seed_variance
            of_seeds = 0.0 if variance is None else variance.of_seeds / self._seeds[pair.point]
            deviation = float(pair.units.std())
            needed = rows_needed_for_mean(difference, deviation, comparisons=family, alpha=alpha, other=of_seeds)
            needed = None if needed is None else round(needed * self.units.rows / self.units.count)
        return needed if needed is not None and needed > self.units.rows else None
