"""The decision about tuned points and their baselines, from tables of scores: pure, seeded, the one place that decides.

`decide` reads from top to bottom: the score table, the family of paired tests, an interval and an outcome for each
pair, the tied set, and the point that the verdict is about. That is the cheapest point of the tied set that is better
than every baseline or, if there is none, the best of the tied set. A base model costs nothing to tune, so where no
point was shown to be better, none is advised.

Figures of simulated worlds in comments are of this project (2026-11-25): models that answer the same rows right or
wrong, with difficulties of rows that the models share, 1,000 to 6,000 repetitions for each world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from tunerun.comparison.arms import DUST, BaselineScores, PointScores, ScoreTable, Units, within
from tunerun.comparison.costs import cheapest
from tunerun.comparison.results import Decision, Difference, Outcome
from tunerun.metrics import Metric, Unit
from tunerun.metrics.base import RANGES, FloatArray
from tunerun.statistics import (
    SeedVariance,
    SettingsTest,
    bias_corrected,
    critical_value,
    few_rows_decide,
    holm,
    max_t,
    max_t_of_swaps,
    mid_p,
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
    """The settings of a comparison.

    Attributes:
        alpha: error rate of the family of tests, and of the tied set.
        worth: the smallest difference worth having, in the unit of the metric; 0: nothing is called equal.
        flips: number of random sign patterns where there are too many to enumerate.
        resamples: number of bootstrap samples for the best point's own value.
        seed: of flips and samples; the same seed gives the same decision.
    """

    alpha: float = 0.05
    worth: float = 0.0
    flips: int = FLIPS
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """A decision and the tests behind it.

    Attributes:
        differences: for each point, in the order of `points`, its difference to each baseline.
        tied_p: for each point the p value of "it is as good as the best".
    """

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
        metric: what the scores are of; it says which direction is better and how means become a value.
        points: at least one; each [seeds, rows, m] with as many rows.
        baselines: those that are measured; none: points are compared with each other only.
        clusters: the cluster of each row, by any numbers; None: every row is a cluster of its own.
        rules: error rates, the smallest difference worth having, and the seed of random flips.
    """
    rules = rules or Rules()
    table = ScoreTable.of(metric, points, baselines, Units.of(points[0].scores.shape[1], clusters))
    family = _test_family(table, rules)
    differences = [_difference(table, family, pair, rules) for pair in family.pairs]
    width = len(baselines)
    by_point = tuple(tuple(differences[p * width : (p + 1) * width]) for p in range(len(points)))
    if table.seed_variance is not None:
        tied_p = [
            max(p, family.smallest_p) for p in tied_settings_p(table.means, table.seed_variance, table.seed_counts)
        ]
    else:
        # The tied set is a list of points, so its error rate is that of the whole list. Testing every point against the
        # observed best is wrong about some equal point in 13 to 19 % of simulated worlds of 12 equal points, and in at
        # most 6 % here.
        tied_p = tied_set_p(table.means, flips=rules.flips, seed=rules.seed)
    return Comparison(_decision(table, family, by_point, tied_p, rules), by_point, tuple(tied_p))


# The family of paired tests


@dataclass(frozen=True)
class _Pair:
    """A point against a baseline, higher is better.

    Attributes:
        units: the difference on each unit.
        statistic: the difference in standard errors.
        p: corrected for the family.
        settings: the test with the variance between seeds; None: the pair is about these trained models.
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
class _Family:
    """Every point against every baseline, tested together.

    Attributes:
        z: critical value of the intervals, in standard errors.
        smallest_p: the smallest p that these rows allow.
    """

    pairs: list[_Pair]
    z: float
    smallest_p: float


def _test_family(table: ScoreTable, rules: Rules) -> _Family:
    """Test the family by the one method that suits its scores.

    Several seeds: a two-way t test for each pair with Holm's correction. One binary pair: McNemar's mid-p. Everything
    else: step-down maxT by joint sign flips, or by swapped answers where the metric is not a mean of rows.
    """
    if table.seed_variance is not None:
        return _test_settings(table, table.seed_variance, rules)
    alpha, rows = rules.alpha, table.differences
    pairs = [(p, q) for p in range(len(table.points)) for q in range(len(table.baselines))]
    if not pairs:
        return _Family([], critical_value(alpha), 0.0)

    sign = 1.0
    if table.metric.is_corpus:
        family = max_t_of_swaps(
            np.stack([sums.mean(axis=0) for sums in table.point_sums]),
            np.stack([sums[0] for sums in table.baseline_sums]),
            table.units.rows,
            table.metric.value,
            alpha=alpha,
            flips=rules.flips,
            seed=rules.seed,
        )
        sign = 1.0 if table.metric.higher_is_better else -1.0  # swaps are measured in the metric's own direction
    else:
        family = max_t(rows, alpha=alpha, flips=rules.flips, seed=rules.seed)
    single, p_values = family.single_p, family.p_values
    if table.is_binary:
        # Half-counted ties make a flip test of one binary pair exactly McNemar's mid-p (Fagerland, Lydersen and Laake
        # 2013); the closed form needs no random flips.
        single = tuple(mid_p(int(np.sum(rows[:, c] > 0)), int(np.sum(rows[:, c] < 0))) for c in range(len(pairs)))
        p_values = single if len(pairs) == 1 else p_values
    # maxT decides. Holm on the single p values is shown beside it because a reader can check it by hand; with 12 points
    # and three baselines at 24 rows it has a third of the power (0.07 against 0.21).
    by_holm = holm(single)

    # Intervals at the family's critical value leave out 0 exactly where single-step maxT rejects. With few live rows
    # the flips' own value is below that of one comparison; an interval is never narrower than that.
    least = critical_value(alpha)
    z = family.critical_value if family.critical_value < inf else critical_value(alpha / len(pairs))
    return _Family(
        [
            _Pair(p, q, rows[:, c], sign * family.statistics[c], p_values[c], by_holm[c], family.few_rows_decide[c])
            for c, (p, q) in enumerate(pairs)
        ],
        max(least, z) if len(pairs) > 1 or not table.is_binary else least,
        family.smallest_p,
    )


def _test_settings(table: ScoreTable, variance: SeedVariance, rules: Rules) -> _Family:
    """Test claims about settings, of points with several seeds: two-way t tests with Holm's correction."""
    # A test over rows alone knows nothing of other seeds: with a standard deviation of 0.04 between seeds it errs in
    # 37 % of simulated worlds at 300 rows, where the two-way test errs in at most 5.4 %.
    rows, seeds = table.differences, table.seed_counts
    pairs = [(p, q) for p in range(len(table.points)) for q in range(len(table.baselines))]
    tests = [two_way(rows[:, c], variance, [seeds[p]]) for c, (p, _) in enumerate(pairs)]
    # No t test knows how few units there are: as with flips, fewer than five cannot reach 0.05.
    smallest_p = 0.5**table.units.count
    corrected = [max(p, smallest_p) for p in holm([test.p for test in tests])]
    few = few_rows_decide(rows)
    settings = [
        _Pair(p, q, rows[:, c], tests[c].statistic, corrected[c], corrected[c], few[c], tests[c])
        for c, (p, q) in enumerate(pairs)
    ]
    return _Family(settings, critical_value(rules.alpha), smallest_p)


# Each pair: an interval and one of four outcomes


def _difference(table: ScoreTable, family: _Family, pair: _Pair, rules: Rules) -> Difference:
    """The difference of a pair in the metric's own direction, with its interval and its outcome."""
    low, high = _interval(table, family, pair, rules)
    value = pair.difference
    if not table.metric.higher_is_better:
        low, high, value = -high, -low, -value
    wins, losses = pair.wins_and_losses if table.is_binary else (None, None)

    # In the order in which two outcomes overlap least: both "better" and "equal" hold in up to 4.5 % of worlds.
    outcome = Outcome.CANNOT_TELL
    if pair.p <= rules.alpha and pair.statistic != 0:
        outcome = Outcome.WORSE if pair.statistic < 0 else Outcome.BETTER
    elif rules.worth > 0 and table.is_binary:
        # Two one-sided tests by Tango's interval: at the margin it wrongly says "equal" in at most 5.8 % of simulated
        # worlds, Wald's interval in up to 48 % at 24 rows. Scores that are not 0 or 1 have no such interval here.
        least, most = tango(*pair.wins_and_losses, table.units.rows, critical_value(2 * rules.alpha))
        if -rules.worth < least and most < rules.worth:
            outcome = Outcome.EQUIVALENT
    return Difference(
        point=table.points[pair.point].number,
        baseline=table.baselines[pair.baseline].name,
        value=value,
        low=low,
        high=high,
        p=pair.p,
        holm_p=pair.holm_p,
        outcome=outcome,
        wins=wins,
        losses=losses,
    )


def _interval(table: ScoreTable, family: _Family, pair: _Pair, rules: Rules) -> Interval:
    """The simultaneous interval of a difference, higher is better."""
    units, top, z = table.units.count, RANGES.get(table.metric.unit, inf), family.z
    if pair.settings is not None:
        reach = pair.settings.reach(rules.alpha, len(family.pairs))
        low, high = pair.difference - reach, pair.difference + reach
    elif table.is_binary:
        # Least coverage of 95 % intervals in 42 simulated worlds: Tango 93.6 %, Wald 77 %, percentile bootstrap 62 %.
        low, high = tango(*pair.wins_and_losses, table.units.rows, z)
    else:
        low, high = score_interval(pair.difference, float(pair.units.std()), units, z)
    if high - low < 10**-DUST and top < inf:
        # Rows that do not differ do not prove that none would: the reach of Tango's without a discordant row.
        reach = top * z * z / (units + z * z)
        low, high = low - reach, high + reach
    return max(low, -top), min(high, top)


# The verdict: which point, against which baseline


def _decision(
    table: ScoreTable,
    family: _Family,
    differences: Sequence[Sequence[Difference]],
    tied_p: Sequence[float],
    rules: Rules,
) -> Decision:
    """Choose the point that the verdict is about: the cheapest proven one of the tied set, or the best of it."""
    metric, points, units = table.metric, table.points, table.units
    tied = [place for place, p in enumerate(tied_p) if p > rules.alpha]
    values = table.means.mean(axis=0).round(DUST)

    def ranked(place: int) -> tuple[float, int, int]:
        return -values[place], points[place].tokens, place

    def advised(places: Sequence[int]) -> int:
        # Among points that the rows cannot tell apart, price decides; of several cheapest ones, the higher score.
        least = cheapest([points[place] for place in places])
        return min((place for place in places if any(points[place] is each for each in least)), key=ranked)

    best = min(tied, key=ranked)
    corrected, (corrected_low, corrected_high) = _corrected(table, best, rules)
    tables = [*(each.scores for each in points), *(each.scores for each in table.baselines)]
    nothing_right = (
        not metric.is_corpus and metric.higher_is_better and not any(bool(scores.any()) for scores in tables)
    )
    decision = Decision(
        outcome=Outcome.NONE,
        tied=tuple(points[place].number for place in tied),
        metric=f"eval/{metric.name}",
        alpha=rules.alpha,
        worth=rules.worth,
        family=len(family.pairs),
        rows=units.rows,
        clusters=None if units.clusters is None else units.count,
        about=points[best].number,
        seeds=table.seed_counts[best],
        nothing_right=nothing_right,
        rows_for_equality=rows_for_equality(rules.worth, rules.alpha) if rules.worth > 0 else None,
        corrected=corrected,
        corrected_low=corrected_low,
        corrected_high=corrected_high,
    )
    if not table.baselines:
        return decision if nothing_right else replace(decision, advised=points[advised(tied)].number)

    proven = [p for p in tied if all(each.outcome is Outcome.BETTER for each in differences[p])]
    place = advised(proven) if proven else best
    return _against_hardest(table, family, differences[place], place, decision, rules, is_proven=bool(proven))


def _against_hardest(
    table: ScoreTable,
    family: _Family,
    differences: Sequence[Difference],
    place: int,
    decision: Decision,
    rules: Rules,
    *,
    is_proven: bool,
) -> Decision:
    """Complete a decision about a point with its difference to the baseline that is hardest to beat for it."""
    metric, width, comparisons = table.metric, len(table.baselines), len(family.pairs)

    def ease(q: int) -> tuple[bool, float, float, int]:
        # A baseline that the point was not shown to beat is harder than any other; then the test's statistic decides.
        pair = family.pairs[place * width + q]
        is_beaten = differences[q].outcome is Outcome.BETTER
        return is_beaten, round(pair.statistic, DUST), pair.difference, q

    hardest = min(range(width), key=ease)
    found, pair = differences[hardest], family.pairs[place * width + hardest]
    smallest = None
    if metric.unit is Unit.SHARE and metric.higher_is_better:
        accuracy = min(1.0, max(0.0, float(metric.value(table.baselines[hardest].scores.mean(axis=0)))))
        smallest = smallest_visible(table.units.count, accuracy, comparisons=comparisons, alpha=rules.alpha)
    return replace(
        decision,
        outcome=found.outcome,
        advised=table.points[place].number if is_proven else None,
        about=table.points[place].number,
        seeds=table.seed_counts[place],
        against=found.baseline,
        difference=found.value,
        low=found.low,
        high=found.high,
        p=found.p,
        smallest_visible=smallest,
        rows_needed=_rows_needed(table, family, pair, rules) if found.outcome is Outcome.CANNOT_TELL else None,
        smallest_p=family.smallest_p,
        few_rows_decide=pair.few_rows_decide,
    )


def _corrected(table: ScoreTable, best: int, rules: Rules) -> tuple[float, Interval]:
    """The best point's own value without the luck of having been chosen, with an interval around it.

    The bootstrap's percentiles would cover as well, but are 1.5 times as wide as Wilson's interval at the corrected
    value, which covers 92 to 98 %.
    """
    metric, units = table.metric, table.units
    value = bias_corrected(
        np.stack([sums.mean(axis=0) for sums in table.point_sums], axis=1),
        sizes=units.sizes,
        value=metric.value if metric.is_corpus else None,
        higher_is_better=metric.higher_is_better,
        resamples=rules.resamples,
        seed=rules.seed,
    )
    if metric.unit is Unit.SHARE and not metric.is_corpus:
        return value, wilson(min(1.0, max(0.0, value)), units.count, rules.alpha)
    deviation = float(table.means[:, best].std())
    return value, within(metric, *score_interval(value, deviation, units.count, critical_value(rules.alpha)))


def _rows_needed(table: ScoreTable, family: _Family, pair: _Pair, rules: Rules) -> int | None:
    """How many rows would show the observed difference; None: there is none, or more rows would not show it."""
    difference, comparisons, units = abs(pair.difference), len(family.pairs), table.units
    if difference < 10**-DUST:
        return None
    if table.is_binary:
        lost = min(pair.wins_and_losses) / units.rows
        needed: int | None = rows_needed(difference, lost, comparisons=comparisons, alpha=rules.alpha)
    else:
        # More rows do not reduce the variance between seeds.
        variance = table.seed_variance
        of_seeds = 0.0 if variance is None else variance.of_seeds / table.seed_counts[pair.point]
        deviation = float(pair.units.std())
        needed = rows_needed_for_mean(difference, deviation, comparisons=comparisons, alpha=rules.alpha, other=of_seeds)
        needed = None if needed is None else round(needed * units.rows / units.count)
    return needed if needed is not None and needed > units.rows else None
