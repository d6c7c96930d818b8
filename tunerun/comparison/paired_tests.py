"""The family of paired tests: each point against each baseline, with an interval and an outcome for each pair.

Figures of simulated worlds in comments are of this project (2026-11-25): models that answer the same rows right or
wrong, with difficulties of rows that the models share, 1,000 to 6,000 repetitions for each world.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import inf

import numpy as np

from tunerun.comparison.arms import DUST, ScoreTable
from tunerun.comparison.results import Difference, Outcome
from tunerun.metrics.base import RANGES, FloatArray
from tunerun.statistics import (
    SeedVariance,
    SettingsTest,
    critical_value,
    few_rows_decide,
    holm,
    max_t,
    max_t_of_swaps,
    mid_p,
    score_interval,
    tango,
    two_way,
)
from tunerun.statistics.flips import FLIPS
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
    # The same in every comparison, so that one ledger always gives one sentence; simulations vary it.
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """A point against a baseline, with its test; higher is better.

    Attributes:
        point, baseline: places in the score table.
        units: the difference on each unit.
        statistic: the difference in standard errors.
        p: corrected for the family. holm_p: by Holm's correction, which a reader can check by hand.
        few_rows_decide: whether fewer than five units carry half of the squared differences, and these differ in size.
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
        """The mean difference."""
        return float(self.units.mean())

    @property
    def wins_and_losses(self) -> tuple[int, int]:
        """The units on which the point is better, and on which the baseline is."""
        return int(np.sum(self.units > 0)), int(np.sum(self.units < 0))


@dataclass(frozen=True)
class Family:
    """Every point against every baseline, tested together.

    Attributes:
        pairs: all baselines of the first point, then of the second.
        z: critical value of the intervals, in standard errors.
        smallest_p: the smallest p that these rows allow.
    """

    pairs: list[Pair]
    z: float
    smallest_p: float

    @classmethod
    def of(cls, table: ScoreTable, rules: Rules) -> Family:
        """Test all pairs by the one method that suits their scores.

        Several seeds: a two-way t test for each pair with Holm's correction. One binary pair: McNemar's mid-p.
        Everything else: step-down maxT by joint sign flips, or by swapped answers where the metric is not a mean of
        rows.
        """
        if table.seed_variance is not None:
            return cls._of_settings(table, table.seed_variance, rules)
        alpha, rows = rules.alpha, table.differences
        pairs = list(product(range(len(table.points)), range(len(table.baselines))))
        if not pairs:
            return cls([], critical_value(alpha), 0.0)

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
            # Half-counted ties make a flip test of one binary pair exactly McNemar's mid-p (Fagerland, Lydersen and
            # Laake 2013); the closed form needs no random flips.
            single = tuple(mid_p(int(np.sum(rows[:, c] > 0)), int(np.sum(rows[:, c] < 0))) for c in range(len(pairs)))
            p_values = single if len(pairs) == 1 else p_values
        # maxT decides. Holm on the single p values is shown beside it because a reader can check it by hand; with 12
        # points and three baselines at 24 rows it has a third of the power (0.07 against 0.21).
        by_holm = holm(single)

        # Intervals at the family's critical value leave out 0 exactly where single-step maxT rejects. With few live
        # rows the flips' own value is below that of one comparison; an interval is never narrower than that.
        least = critical_value(alpha)
        z = family.critical_value if family.critical_value < inf else critical_value(alpha / len(pairs))
        return cls(
            [
                Pair(p, q, rows[:, c], sign * family.statistics[c], p_values[c], by_holm[c], family.few_rows_decide[c])
                for c, (p, q) in enumerate(pairs)
            ],
            max(least, z) if len(pairs) > 1 or not table.is_binary else least,
            family.smallest_p,
        )

    @classmethod
    def _of_settings(cls, table: ScoreTable, variance: SeedVariance, rules: Rules) -> Family:
        """Test claims about settings, of points with several seeds: two-way t tests with Holm's correction."""
        # A test over rows alone knows nothing of other seeds: with a standard deviation of 0.04 between seeds it errs
        # in 37 % of simulated worlds at 300 rows, where the two-way test errs in at most 5.4 %.
        rows, seeds = table.differences, table.seed_counts
        pairs = list(product(range(len(table.points)), range(len(table.baselines))))
        tests = [two_way(rows[:, c], variance, [seeds[p]]) for c, (p, _) in enumerate(pairs)]
        # No t test knows how few units there are: as with flips, fewer than five cannot reach 0.05.
        smallest_p = 0.5**table.units.count
        corrected = [max(p, smallest_p) for p in holm([test.p for test in tests])]
        few = few_rows_decide(rows)
        settings = [
            Pair(p, q, rows[:, c], tests[c].statistic, corrected[c], corrected[c], few[c], tests[c])
            for c, (p, q) in enumerate(pairs)
        ]
        return cls(settings, critical_value(rules.alpha), smallest_p)

    def difference(self, table: ScoreTable, pair: Pair, rules: Rules) -> Difference:
        """Return the difference of a pair in the metric's own direction, with its simultaneous interval and outcome."""
        units, top, z = table.units.count, RANGES.get(table.metric.unit, inf), self.z
        value = pair.difference
        if pair.settings is not None:
            reach = pair.settings.reach(rules.alpha, len(self.pairs))
            low, high = value - reach, value + reach
        elif table.is_binary:
            # Least coverage of 95 % intervals in 42 simulated worlds: Tango 93.6 %, Wald 77 %, percentile bootstrap
            # 62 %.
            low, high = tango(*pair.wins_and_losses, table.units.rows, z)
        else:
            low, high = score_interval(value, float(pair.units.std()), units, z)

        if high - low < 10**-DUST and top < inf:
            # Rows that do not differ do not prove that none would: the reach of Tango's without a discordant row.
            reach = top * z * z / (units + z * z)
            low, high = low - reach, high + reach
        low, high = max(low, -top), min(high, top)
        if not table.metric.higher_is_better:
            low, high, value = -high, -low, -value

        # In the order in which two outcomes overlap least: both "better" and "equal" hold in up to 4.5 % of worlds.
        outcome = Outcome.CANNOT_TELL
        if pair.p <= rules.alpha and pair.statistic != 0:
            # Two-sided, and then in the good direction: half of the error rate for "better" in a null world.
            outcome = Outcome.WORSE if pair.statistic < 0 else Outcome.BETTER
        elif rules.worth > 0 and table.is_binary:
            # Two one-sided tests by Tango's interval: at the margin it wrongly says "equal" in at most 5.8 % of
            # simulated worlds, Wald's interval in up to 48 % at 24 rows. Other scores have no such interval here.
            least, most = tango(*pair.wins_and_losses, table.units.rows, critical_value(2 * rules.alpha))
            if -rules.worth < least and most < rules.worth:
                outcome = Outcome.EQUIVALENT
        wins, losses = pair.wins_and_losses if table.is_binary else (None, None)
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
