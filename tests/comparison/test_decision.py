"""What tables of scores allow to say, for tables whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.comparison.worlds import RIGHT, Scores, World
from tunerun.comparison.arms import BaselineScores, PointScores, estimate
from tunerun.comparison.decision import Comparison, decide
from tunerun.comparison.paired_tests import Rules
from tunerun.comparison.results import Outcome
from tunerun.metrics import Unit
from tunerun.metrics.base import FloatArray
from tunerun.statistics import critical_value, mid_p, tango, wilson


def column(right: str | FloatArray) -> FloatArray:
    """Make scores of rows from `1` and `0`."""
    values = np.array([float(c) for c in right]) if isinstance(right, str) else right
    return values[:, None]


def point(number: int, *seeds: str | FloatArray, tokens: int = 100) -> PointScores:
    return PointScores(number, np.stack([column(each) for each in seeds]), tokens=tokens)


def baseline(name: str, right: str | FloatArray) -> BaselineScores:
    return BaselineScores(name, column(right))


def demo(base: str = "0" * 24) -> Comparison:
    """The shipped demo: 15, 17, 13 and 14 of 24 rows; points 0 and 2 have five epochs, 1 and 3 have ten."""
    points = [
        point(0, "1" * 13 + "0" * 9 + "11", tokens=2715),
        point(1, "1" * 17 + "0" * 7, tokens=5430),
        point(2, "1" * 10 + "0" * 11 + "111", tokens=2715),
        point(3, "1" * 12 + "0" * 10 + "11", tokens=5430),
    ]
    return decide(RIGHT, points, [baseline("base", base), baseline("base+4", "0" * 20 + "1110")])


def test_the_demo_has_one_tied_set_and_advises_five_epochs() -> None:
    """17 and 15 of 24 rows cannot be distinguished, so that the cheaper point is advised."""
    decision = demo().decision
    assert decision.outcome is Outcome.BETTER
    assert decision.tied == (0, 1, 2, 3)
    assert decision.advised == decision.about == 0
    assert decision.against == "base+4"
    assert decision.family == 8


def test_seventeen_wins_without_a_loss_stay_significant_after_correction() -> None:
    """The best point of the demo against the untuned model; Holm's value is what a reader gets by hand."""
    difference = demo().differences[1][0]
    assert (difference.wins, difference.losses) == (17, 0)
    assert difference.value == pytest.approx(17 / 24)
    assert difference.outcome is Outcome.BETTER
    assert 0 < difference.p < 0.001
    assert difference.holm_p == pytest.approx(8 * mid_p(17, 0))
    assert 0 < difference.low < difference.value < difference.high <= 1


def test_one_pair_is_mcnemars_test_with_tangos_interval() -> None:
    """A single point against a single baseline needs no correction."""
    comparison = decide(RIGHT, [point(0, "1" * 5 + "0" * 3 + "1" * 16)], [baseline("base", "0" * 5 + "1" * 19)])
    (found,) = comparison.differences[0]
    assert found.p == found.holm_p == mid_p(5, 3)
    assert (found.low, found.high) == pytest.approx(tango(5, 3, 24, critical_value(0.05)))
    assert comparison.decision.outcome is Outcome.CANNOT_TELL
    assert comparison.decision.advised is None
    assert comparison.decision.rows_needed is not None
    assert comparison.tied_p == (1.0,)


def test_a_point_is_compared_with_the_baseline_that_is_hardest_to_beat() -> None:
    """On a three-label set 44 % beats an untuned model's 0 %, and is not distinguished from one answer's 33 %."""
    labels = np.arange(36) % 3
    tuned = (np.arange(36) % 9 < 4).astype(float)
    comparison = decide(
        RIGHT, [point(0, tuned)], [baseline("base", "0" * 36), baseline("majority", (labels == 0).astype(float))]
    )
    assert [each.outcome for each in comparison.differences[0]] == [Outcome.BETTER, Outcome.CANNOT_TELL]
    decision = comparison.decision
    assert (decision.outcome, decision.advised, decision.against) == (Outcome.CANNOT_TELL, None, "majority")


def test_with_a_template_axis_the_best_of_all_baselines_counts() -> None:
    """A tuned model that beats the base model under its own template, but not under the other, is not advised."""
    comparison = decide(
        RIGHT, [point(0, "1" * 10 + "0" * 14)], [baseline("base-0", "0" * 24), baseline("base-1", "0" * 4 + "1" * 20)]
    )
    assert comparison.differences[0][0].outcome is Outcome.BETTER
    decision = comparison.decision
    assert (decision.outcome, decision.advised, decision.against) == (Outcome.WORSE, None, "base-1")


def test_equal_points_are_tied() -> None:
    """Of equal points the one that costs least is advised, whichever number it has."""
    right = "1" * 15 + "0" * 9
    points = [point(0, right, tokens=300), point(1, right, tokens=100), point(2, right, tokens=200)]
    comparison = decide(RIGHT, points, [baseline("base", "0" * 24)])
    assert comparison.tied_p == (1.0, 1.0, 1.0)
    assert comparison.decision.advised == 1


def test_of_points_that_cost_the_same_the_better_one_is_advised() -> None:
    """The measure breaks ties of cost; of points with an equal measure the first is advised."""
    points = [point(0, "1" * 13 + "0" * 11), point(1, "1" * 15 + "0" * 9), point(2, "1" * 15 + "0" * 9)]
    assert decide(RIGHT, points, [baseline("base", "0" * 24)]).decision.advised == 1


def test_of_tied_points_the_cheapest_that_is_better_is_advised() -> None:
    """A cheaper point that differs neither from the best nor from any baseline is passed over."""
    cheap, dear = point(0, "1" * 4 + "0" * 20, tokens=1), point(1, "1" * 8 + "0" * 16, tokens=2)
    decision = decide(RIGHT, [cheap, dear], [baseline("base", "0" * 24)]).decision
    assert decision.tied == (0, 1)
    assert decision.advised == 1
    assert decision.outcome is Outcome.BETTER


def test_a_measure_of_which_less_is_better_keeps_its_own_sign() -> None:
    """A loss that is 0.5 lower on every row is better, and shown as -0.5."""
    losses = np.linspace(1, 3, 24)
    metric = Scores("loss", Unit.NATS, higher_is_better=False)
    noise = np.tile([0.1, -0.1], 12)
    comparison = decide(metric, [point(0, losses - 0.5 + noise), point(1, losses)], [baseline("base", losses)])
    difference = comparison.differences[0][0]
    assert comparison.decision.outcome is Outcome.BETTER
    assert comparison.decision.tied == (0,)
    assert difference.value == pytest.approx(-0.5)
    assert difference.low < difference.value < difference.high < 0
    assert comparison.decision.corrected == pytest.approx(float((losses - 0.5 + noise).mean()), abs=0.05)
    worse = decide(metric, [point(0, losses + 0.5 + noise)], [baseline("base", losses)]).decision
    assert worse.outcome is Outcome.WORSE
    assert worse.difference == pytest.approx(0.5)


def test_points_are_equal_within_the_smallest_difference_worth_having() -> None:
    """300 rows, two of them discordant, are equal within 5 points; without `worth`, or at 24 rows, they are not."""
    ours = np.r_[np.ones(150), np.zeros(150)]
    theirs = ours.copy()
    theirs[[0, 299]] = 0, 1
    points, baselines = [point(0, ours)], [baseline("base", theirs)]
    assert decide(RIGHT, points, baselines, rules=Rules(worth=0.05)).decision.outcome is Outcome.EQUIVALENT
    assert decide(RIGHT, points, baselines).decision.outcome is Outcome.CANNOT_TELL
    few = decide(RIGHT, [point(0, ours[:24])], [baseline("base", ours[:24])], rules=Rules(worth=0.05)).decision
    assert few.outcome is Outcome.CANNOT_TELL
    assert few.rows_for_equality == 52


def test_fewer_than_five_clusters_decide_nothing() -> None:
    """However many rows agree, four clusters cannot decide anything, with one seed or with three."""
    clusters = [row // 10 for row in range(40)]
    for seeds in (1, 3):
        decision = decide(RIGHT, [point(0, *["1" * 40] * seeds)], [baseline("base", "0" * 40)], clusters).decision
        assert decision.outcome is Outcome.CANNOT_TELL
        assert decision.smallest_p == 0.0625
        assert decision.clusters == 4
        apart = [point(0, *["1" * 40] * seeds), point(1, *["0" * 40] * seeds)]
        assert decide(RIGHT, apart, [baseline("base", "0" * 40)], clusters).decision.tied == (0, 1)
    five = [3 * (row // 8) for row in range(40)]  # any numbers will do
    assert decide(RIGHT, [point(0, "1" * 40)], [baseline("base", "0" * 40)], five).decision.outcome is Outcome.BETTER


def test_a_score_that_seeds_move_supports_no_claim() -> None:
    """Three seeds whose mean is 10 points above the base model are not better where one seed is far below it."""
    rows = np.arange(200) / 200
    base = (rows < 0.5).astype(float)
    steady = [(rows < 0.6).astype(float)] * 3
    moving = [(rows < limit).astype(float) for limit in (0.3, 0.7, 0.8)]
    verdicts = [decide(RIGHT, [point(0, *seeds)], [baseline("base", base)]).decision for seeds in (steady, moving)]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.BETTER, Outcome.CANNOT_TELL]
    assert all(verdict.seeds == 3 and verdict.difference == pytest.approx(0.1) for verdict in verdicts)
    assert verdicts[1].low is not None
    assert verdicts[1].low < 0 < 0.1 < (verdicts[1].high or 0)
    assert decide(RIGHT, [point(0, moving[2])], [baseline("base", base)]).decision.outcome is Outcome.BETTER


def test_points_may_have_different_numbers_of_seeds() -> None:
    """A point with one seed left is tested with the variance between the seeds of the others."""
    generator = np.random.default_rng(4)
    tables = [(generator.random((seeds, 60)) < 0.7).astype(float) for seeds in (3, 3, 2)]
    points = [PointScores(number, table[:, :, None]) for number, table in enumerate(tables)]
    decision = decide(RIGHT, points, [baseline("base", "0" * 60)]).decision
    assert decision.outcome is Outcome.BETTER
    assert decision.tied == (0, 1, 2)
    assert decision.seeds == {0: 3, 1: 3, 2: 2}[decision.about or 0]
    alone = [points[0], PointScores(1, tables[1][:1, :, None], tokens=-1)]
    one = decide(RIGHT, alone, [baseline("base", "0" * 60)]).decision
    assert (one.outcome, one.about, one.seeds) == (Outcome.BETTER, 1, 1)


def test_without_a_baseline_the_cheapest_of_the_tied_set_is_advised() -> None:
    """Without a baseline the decision makes no claim about tuning."""
    decision = decide(RIGHT, [point(0, "1" * 24), point(1, "1" * 24, tokens=1), point(2, "0" * 24)], []).decision
    assert (decision.outcome, decision.tied, decision.advised) == (Outcome.NONE, (0, 1), 1)
    assert (decision.against, decision.p, decision.family) == (None, None, 0)


def test_answers_that_are_all_wrong_are_noticed() -> None:
    """Where no answer of any point or baseline scores, the decision says so: the metric may not fit."""
    assert decide(RIGHT, [point(0, "0" * 24)], [baseline("base", "0" * 24)]).decision.nothing_right
    assert not demo().decision.nothing_right


def test_a_few_rows_that_carry_a_difference_are_noticed() -> None:
    """A few rows with large losses, which a flip test takes for a difference, are reported."""
    scores = Scores("f1")
    ours = np.r_[np.full(20, 0.51), np.zeros(4)]
    decision = decide(scores, [point(0, ours)], [baseline("base", np.full(24, 0.5))]).decision
    assert decision.few_rows_decide


@dataclass(frozen=True)
class Ratio(Scores):
    """A corpus metric: the sum of one count divided by the sum of another, as of a corpus BLEU or F1."""

    name: str = "ratio"
    is_corpus: bool = True

    def value(self, means: FloatArray) -> FloatArray:
        return np.asarray(means[..., 0] / means[..., 1])


def counted(right: FloatArray, weights: Sequence[float] | None = None) -> FloatArray:
    weight = np.ones(len(right)) if weights is None else np.asarray(weights)
    return np.stack([right * weight, weight], axis=1)


def test_a_corpus_metric_that_is_a_mean_is_tested_as_one() -> None:
    """Swapped tables give the p values of flipped differences, and the jackknife gives back the rows."""
    generator = np.random.default_rng(2)
    ours = [(generator.random(12) < share).astype(float) for share in (0.9, 0.5)]
    base = (generator.random(12) < 0.3).astype(float)
    rows = decide(RIGHT, [PointScores(n, c[None, :, None]) for n, c in enumerate(ours)], [baseline("base", base)])
    corpus = decide(
        Ratio(), [PointScores(n, counted(c)[None]) for n, c in enumerate(ours)], [BaselineScores("base", counted(base))]
    )
    for a, b in zip(rows.differences, corpus.differences, strict=True):
        assert a[0].p == pytest.approx(b[0].p)
        assert a[0].value == pytest.approx(b[0].value)
    assert rows.tied_p == pytest.approx(corpus.tied_p)
    assert rows.decision.corrected == pytest.approx(corpus.decision.corrected, abs=1e-9)


def test_a_corpus_metric_is_recomputed_on_resamples() -> None:
    """Rows of different weight have a difference of the whole, with an interval that agrees with p."""
    weights = [1.0, 2.0, 3.0] * 10
    ours, base = np.ones(30), np.r_[np.zeros(20), np.ones(10)]
    for metric, outcome in ((Ratio(), Outcome.BETTER), (replace(Ratio(), higher_is_better=False), Outcome.WORSE)):
        comparison = decide(
            metric, [PointScores(0, counted(ours, weights)[None])], [BaselineScores("base", counted(base, weights))]
        )
        difference = comparison.differences[0][0]
        assert difference.value == pytest.approx(1 - 21 / 60, abs=0.02)
        assert 0 < difference.low < difference.value < difference.high <= 1
        assert comparison.decision.outcome is outcome


def test_an_estimate_is_the_mean_over_seeds_with_their_spread() -> None:
    """One seed of right and wrong rows has Wilson's interval; clusters and seeds have the score form."""
    one = estimate(RIGHT, column("1" * 15 + "0" * 9)[None])
    assert (one.value, one.low, one.high) == pytest.approx((15 / 24, *wilson(15 / 24, 24)))
    assert (one.spread, one.seeds) == (None, 1)
    two = estimate(RIGHT, np.stack([column("1" * 12 + "0" * 12), column("1" * 18 + "0" * 6)]))
    assert (two.value, two.spread) == pytest.approx((0.625, 0.1767767))
    assert two.seeds == 2
    clustered = estimate(RIGHT, column("1" * 12 + "0" * 12)[None], [row // 6 for row in range(24)])
    assert (clustered.low, clustered.high) == pytest.approx((0, 1), abs=0.2)
    wrong = estimate(RIGHT, column("0" * 24)[None], [row // 6 for row in range(24)])
    assert (wrong.low, wrong.high) == pytest.approx(wilson(0, 4))


def test_the_same_scores_give_the_same_decision() -> None:
    """Random flips and resamples are seeded."""
    points, baselines = World(rows=60, gains=(0.2, 0.0)).draw(np.random.default_rng(1))
    rules = Rules(flips=500, resamples=50)
    assert decide(RIGHT, points, baselines, rules=rules) == decide(RIGHT, points, baselines, rules=rules)
