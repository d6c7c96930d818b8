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

import numpy as np

from tunerun.comparison.arms import DUST, BaselineScores, PointScores, ScoreTable, Units, within
from tunerun.comparison.costs import cheapest
from tunerun.comparison.paired_tests import Family, Pair, Rules
from tunerun.comparison.results import Decision, Difference, Outcome
from tunerun.metrics import Metric, Unit
from tunerun.statistics import (
    bias_corrected,
    critical_value,
    rows_for_equality,
    rows_needed,
    rows_needed_for_mean,
    score_interval,
    smallest_visible,
    tied_set_p,
    tied_settings_p,
    wilson,
)
from tunerun.statistics.intervals import Interval


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
    family = Family.of(table, rules)
    differences = [family.difference(table, pair, rules) for pair in family.pairs]
    width = len(baselines)
    by_point = tuple(tuple(differences[p * width : (p + 1) * width]) for p in range(len(points)))

    if table.seed_variance is not None:
        # As in the family: no t test knows how few units there are.
        tied_p = [
            max(p, family.smallest_p) for p in tied_settings_p(table.means, table.seed_variance, table.seed_counts)
        ]
    else:
        # The tied set is a list of points, so its error rate is that of the whole list. Testing every point against the
        # observed best is wrong about some equal point in 13 to 19 % of simulated worlds of 12 equal points, and in at
        # most 6 % here.
        tied_p = tied_set_p(table.means, flips=rules.flips, seed=rules.seed)
    return Comparison(_decision(table, family, by_point, tied_p, rules), by_point, tuple(tied_p))


# The verdict: which point, against which baseline


def _decision(
    table: ScoreTable,
    family: Family,
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
        # Among points that the rows cannot distinguish, price decides; of several cheapest ones, the higher score.
        least = cheapest([points[place] for place in places])
        return min((place for place in places if any(points[place] is each for each in least)), key=ranked)

    best = min(tied, key=ranked)
    corrected, (corrected_low, corrected_high) = _corrected(table, best, rules)
    tables = [*(each.scores for each in points), *(each.scores for each in table.baselines)]
    # A corpus metric's counts say nothing by themselves, and of a loss 0 is the best value.
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

    # A baseline costs nothing to tune, so a point that does not beat each of them is not worth its price.
    proven = [p for p in tied if all(each.outcome is Outcome.BETTER for each in differences[p])]
    place = advised(proven) if proven else best
    return _against_hardest(table, family, differences[place], place, decision, rules, is_proven=bool(proven))


def _against_hardest(
    table: ScoreTable,
    family: Family,
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
    difference, pair = differences[hardest], family.pairs[place * width + hardest]

    smallest = None
    if metric.unit is Unit.SHARE and metric.higher_is_better:
        # Connor's formula is for shares. A plan has to assume a baseline of one half; here its real value is known.
        accuracy = min(1.0, max(0.0, float(metric.value(table.baselines[hardest].scores.mean(axis=0)))))
        smallest = smallest_visible(table.units.count, accuracy, comparisons=comparisons, alpha=rules.alpha)
    return replace(
        decision,
        outcome=difference.outcome,
        advised=table.points[place].number if is_proven else None,
        about=table.points[place].number,
        seeds=table.seed_counts[place],
        against=difference.baseline,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p=difference.p,
        smallest_visible=smallest,
        rows_needed=_rows_needed(table, family, pair, rules) if difference.outcome is Outcome.CANNOT_TELL else None,
        smallest_p=family.smallest_p,
        few_rows_decide=pair.few_rows_decide,
    )


def _corrected(table: ScoreTable, best: int, rules: Rules) -> tuple[float, Interval]:
    """The best point's own value without the luck of having been chosen, with an interval around it."""
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
        # The bootstrap's percentiles would cover as well, but are 1.5 times as wide as Wilson's interval at the
        # corrected value, which covers 92 to 98 %; at the raw value it covers as few as 82 %.
        return value, wilson(min(1.0, max(0.0, value)), units.count, rules.alpha)
    deviation = float(table.means[:, best].std())
    return value, within(metric, *score_interval(value, deviation, units.count, critical_value(rules.alpha)))


def _rows_needed(table: ScoreTable, family: Family, pair: Pair, rules: Rules) -> int | None:
    """How many rows would show the observed difference; None: there is none, or more rows would not show it."""
    difference, comparisons, units = abs(pair.difference), len(family.pairs), table.units
    if difference < 10**-DUST:
        return None
    if table.is_binary:
        # More rows are assumed to have the same share of lost ones.
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
