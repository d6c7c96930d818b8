"""The verdict in words: each case's exact sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tests.comparison.test_decision import baseline, column, point
from tests.comparison.worlds import RIGHT, Scores
from tunerun.comparison import sentences
from tunerun.comparison.arms import BaselineScores, PointScores
from tunerun.comparison.decision import decide
from tunerun.comparison.paired_tests import Rules
from tunerun.comparison.results import BaselineResult, Estimate, Measure, PointResult
from tunerun.comparison.sentences import Case, notes, sentence
from tunerun.job import JobState, Scalar
from tunerun.metrics import Unit

WORDS = {
    "base": "the base model",
    "base+4": "the base model with 4 examples in the prompt",
    "majority": "always giving the most frequent answer",
}
FEW = baseline("base+4", "0" * 20 + "1110")
ZERO = baseline("base", "0" * 24)


def case(
    points: Sequence[PointScores],
    baselines: Sequence[BaselineScores],
    clusters: Sequence[int] | None = None,
    metric: Scores = RIGHT,
    worth: float = 0.0,
    unmeasured: Sequence[str] = (),
) -> Case:
    """Decide, and make what a sentence needs; the points have 5, 10, 15 and so on epochs."""
    comparison = decide(metric, points, baselines, clusters, Rules(worth=worth))
    measure = Measure(f"eval/{metric.name}", metric.unit, metric.higher_is_better)
    differences = comparison.differences
    results = []
    for each, against in zip(points, differences, strict=True):
        overrides: dict[str, Scalar] = {"hyperparameters.epoch_count": 5 * (each.number + 1)}
        trials = tuple(range(len(each.scores)))
        results.append(PointResult(each.number, overrides, trials, {}, against, tokens=each.tokens))
    results_of_baselines = [
        BaselineResult(
            name, name, "", (), {measure.name: Estimate(0.0)} if name not in unmeasured else {}, None, WORDS[name]
        )
        for name in [*(each.name for each in baselines), *unmeasured]
    ]
    return Case(comparison.decision, measure, results, [each.number for each in points], results_of_baselines)


def test_better_with_a_tied_set() -> None:
    """The point to use, what it is better than, by how much, and the points that do not differ from it."""
    better = case(
        [
            point(0, "1" * 13 + "0" * 9 + "11", tokens=2715),
            point(1, "1" * 17 + "0" * 7, tokens=5430),
            point(2, "1" * 12 + "0" * 10 + "11", tokens=5430),
        ],
        [ZERO, FEW],
    )
    assert sentence(better) == (
        "Use point 0 (5 epochs): this trained model is better than the base model with 4 examples in the prompt "
        "(+50 points, 95 % interval 13 to 74, p = 0.0020, corrected for 6 comparisons). "
        "Points 1 and 2 cannot be distinguished from it; 0 is the cheapest of them."
    )
    seeds, luck, power, errors = notes(better)
    assert seeds == (
        "Each point has one seed, so this is about these trained models and not about their settings; how far another "
        "seed moves them is not known (sweep.replicates=3 shows it)."
    )
    assert luck == (
        "The best of 3 points looks better than it is, because it was chosen by these rows; without that luck its "
        "eval/right is about 65 % (95 % interval 45 to 81)."
    )
    assert power == (
        "24 held-out rows show differences of about 52 points or more in 6 comparisons (power 80 %, unrelated errors)."
    )
    assert errors == (
        "What is better than a baseline and what cannot be distinguished from the best point are two statements, each with "
        "an error rate of its own (5 %)."
    )


def test_one_point_only() -> None:
    """Its sentence mentions neither a tied set nor a correction."""
    one = [point(0, "1" * 17 + "0" * 7)]
    assert sentence(case(one, [ZERO])) == (
        "Use point 0 (5 epochs): this trained model is better than the base model "
        "(+71 points, 95 % interval 47 to 85, p < 0.0001)."
    )
    nothing_set = case(one, [ZERO])
    nothing_set = replace(nothing_set, points=[replace(nothing_set.points[0], overrides={})])
    assert sentence(nothing_set).startswith("Use the tuned model: it is better than the base model (")
    assert notes(nothing_set)[1].startswith("24 held-out rows show")


def test_all_points_are_tied_and_cost_the_same() -> None:
    """The first is advised, and the sentence says that all cost the same."""
    same = [point(number, "1" * 17 + "0" * 7) for number in range(8)]
    assert sentence(case(same, [ZERO])).endswith(
        "7 other points cannot be distinguished from it; all of them cost the same."
    )
    assert sentence(case([*same[:2], point(2, "1" * 17 + "0" * 7, tokens=900)], [ZERO])).endswith(
        "Points 1 and 2 cannot be distinguished from it; none of them is cheaper."
    )


def test_a_cheaper_point_that_is_not_shown_to_be_better_is_passed_over() -> None:
    """The sentence does not call the advised point the cheapest of all."""
    dearer = case([point(0, "1" * 4 + "0" * 20, tokens=1), point(1, "1" * 8 + "0" * 16, tokens=2)], [ZERO])
    assert sentence(dearer).endswith(
        "Point 0 cannot be distinguished from it; of those that are better than the base model, 1 is the cheapest."
    )


def test_the_others_are_worse() -> None:
    """Where one point is the whole tied set, the sentence says that the others are worse."""
    good, bad = "1" * 20 + "0" * 4, "0" * 24
    assert sentence(case([point(0, good), point(1, bad)], [ZERO])).endswith(" Point 1 is worse.")
    assert sentence(case([point(0, bad), point(1, good), point(2, bad)], [ZERO])).endswith(
        " The other 2 points are worse than it."
    )


def test_a_difference_cannot_be_distinguished_from_chance() -> None:
    """The sentence says about how many rows would show such a difference."""
    undecided = case(
        [point(0, "1" * 6 + "0" * 18), point(1, "1" * 7 + "0" * 17)], [baseline("base+4", "0" * 20 + "1111")]
    )
    assert sentence(undecided) == (
        "No point can be said to be better than the base model with 4 examples in the prompt: the best, point 1 "
        "(10 epochs), differs by +12 points (95 % interval -17 to 40, p = 0.4463, corrected for 2 points), which "
        "24 held-out rows cannot distinguish from chance. About 280 rows would show such a difference."
    )
    alone = case([point(0, "1" * 4 + "0" * 20)], [baseline("base+4", "0" * 20 + "1111")])
    assert sentence(alone) == (
        "Point 0 (5 epochs) cannot be said to be better than the base model with 4 examples in the prompt: it differs "
        "by +0 points (95 % interval -24 to 24, p = 1.0000), which 24 held-out rows cannot distinguish from chance."
    )


def test_a_baseline_is_better() -> None:
    """The sentence advises to use none of the points."""
    few = baseline("base+4", "1" * 20 + "0" * 4)
    worse = case([point(0, "1" * 5 + "0" * 19), point(1, "1" * 4 + "0" * 20)], [ZERO, few])
    assert sentence(worse) == (
        "Use none of the points: the best, point 0 (5 epochs), is worse than the base model with 4 examples in the "
        "prompt (-62 points, 95 % interval -81 to -34, p < 0.0001, corrected for 4 comparisons)."
    )
    alone = case([point(0, "1" * 5 + "0" * 19)], [few])
    assert sentence(alone) == (
        "Point 0 (5 epochs) is worse than the base model with 4 examples in the prompt "
        "(-62 points, 95 % interval -79 to -40, p < 0.0001): do not use it."
    )


def test_the_majority_answer_is_the_hardest_to_beat() -> None:
    """On a three-label set, 44 % is compared with 33 % of one answer for everything, not with 0 % of the base model."""
    tuned = (np.arange(36) % 9 < 4).astype(float)
    labels = (np.arange(36) % 3 == 0).astype(float)
    undecided = case([point(0, tuned)], [baseline("base", "0" * 36), baseline("majority", labels)])
    assert sentence(undecided) == (
        "Point 0 (5 epochs) cannot be said to be better than always giving the most frequent answer: it differs by "
        "+11 points (95 % interval -12 to 34, p = 0.2633, corrected for 2 comparisons), which 36 held-out rows cannot "
        "distinguish from chance. About 260 rows would show such a difference."
    )


def test_equal_within_what_is_worth_having() -> None:
    """The sentence says that nothing worth having is gained."""
    ours = np.r_[np.ones(150), np.zeros(150)]
    theirs = ours.copy()
    theirs[[0, 299]] = 0, 1
    equal = case([point(0, ours)], [baseline("base", theirs)], worth=0.05)
    assert sentence(equal) == (
        "Point 0 (5 epochs) and the base model are equal within 5.0 points (+0.0 points): nothing worth having is gained."
    )
    few = case([point(0, "1" * 12 + "0" * 12)], [baseline("base", "1" * 12 + "0" * 12)], worth=0.05)
    assert '"Equal within 5 points" is out of reach below 52 rows.' in notes(few)


def test_no_exact_match_at_all() -> None:
    """For free text, where no answer equals the expected one, the sentence advises another metric."""
    assert sentence(case([point(0, "0" * 24), point(1, "0" * 24)], [ZERO])) == (
        "Nothing can be decided: no answer of any point or baseline scores above 0 by eval/right. If answers are free text, "
        "name another metric, such as chrf or contains, in evaluation.metrics: the stored answers are scored again and "
        "no model is asked."
    )


def test_too_few_clusters_or_rows() -> None:
    """Fewer than five rows or clusters cannot decide anything, however much they differ."""
    wins = [point(0, "1" * 40)], [baseline("base", "0" * 40)]
    assert sentence(case(*wins, [row // 10 for row in range(40)])) == (
        "The 40 held-out rows form 4 clusters, and fewer than 5 cannot decide anything. Hold out rows of more sources."
    )
    assert sentence(case([point(0, "111")], [baseline("base", "000")])) == (
        "3 held-out rows cannot decide anything: at least 5 are needed. Hold out more."
    )
    enough = case(*wins, [row // 8 for row in range(40)])
    assert sentence(enough).startswith("Use point 0 (5 epochs): this trained model is better than the base model (+100")
    assert "The 40 rows form 5 clusters, which are tested in their place." in notes(enough)


def test_a_few_rows_carry_the_difference() -> None:
    """The sentence asks the reader to look at these rows first."""
    metric = Scores("f1")
    ours, base = np.r_[np.full(20, 0.51), np.full(4, 1.0)], np.full(24, 0.5)
    assert sentence(case([point(0, ours)], [BaselineScores("base", column(base))], metric=metric)).endswith(
        " Fewer than five rows carry half of this difference: look at them first."
    )


def test_several_seeds() -> None:
    """The sentence makes a claim about settings, or says why it cannot."""
    rows = np.arange(200) / 200
    base = baseline("base", (rows < 0.5).astype(float))
    steady = [(rows < 0.6).astype(float)] * 3
    moving = [(rows < limit).astype(float) for limit in (0.3, 0.7, 0.8)]
    better = case([point(0, *steady)], [base])
    assert sentence(better) == (
        "Use point 0 (5 epochs): over 3 seeds it is better than the base model "
        "(+10.0 points, 95 % interval 5.8 to 14.2, p < 0.0001)."
    )
    assert not any("one seed" in note for note in notes(better))
    assert sentence(case([point(0, *moving)], [base])) == (
        "Point 0 (5 epochs) cannot be said to be better than the base model: it differs by +10.0 points (95 % interval "
        "-54.2 to 74.2, p = 0.5809), which 200 held-out rows and 3 seeds cannot distinguish from chance."
    )


def test_a_measure_of_which_less_is_better() -> None:
    """The difference has the measure's own sign and unit."""
    losses = np.linspace(1, 3, 24)
    metric = Scores("answer_loss", Unit.NATS, higher_is_better=False)
    of_losses = case([point(0, losses - 0.5 + np.tile([0.1, -0.1], 12))], [baseline("base", losses)], metric=metric)
    assert sentence(of_losses) == (
        "Use point 0 (5 epochs): this trained model is better than the base model "
        "(-0.500 nats, 95 % interval -0.544 to -0.456, p < 0.0001)."
    )


def test_a_baseline_that_is_not_measured() -> None:
    """The sentence makes no claim about it; if none is measured, it makes no claim about tuning."""
    measured = case([point(0, "1" * 17 + "0" * 7)], [ZERO], unmeasured=["base+4"])
    assert sentence(measured).endswith(
        "p < 0.0001). The base model with 4 examples in the prompt is not measured, so nothing is said about it."
    )
    none = case([point(0, "1" * 17 + "0" * 7), point(1, "1" * 17 + "0" * 7)], [])
    assert sentence(none) == (
        "Use point 0 (5 epochs), but whether it is better than the base model is not known: there is no baseline. "
        "Point 1 cannot be distinguished from it; all of them cost the same."
    )
    later = replace(none, decision=replace(none.decision, advised=None))
    assert sentence(later) == (
        "No baseline is measured, so it is not known whether tuning helps; run the same command again to measure them."
    )


def test_notes_say_where_the_interval_or_holm_says_less() -> None:
    """A reader who checks the verdict by hand learns why the figures differ."""
    edge = case([point(0, "1" * 5 + "0" * 19), point(1, "0" * 19 + "1" * 5)], [ZERO])
    text = " ".join(notes(edge))
    assert ("Holm" in text) == any(each.holm_p > 0.05 >= each.p for each in edge.points[0].against)


def test_nothing_to_compare() -> None:
    """Each reason not to compare has a sentence of its own."""
    states = [JobState.FAILED, JobState.FAILED, JobState.CANCELLED]
    assert sentences.no_success(states) == (
        "No trial has succeeded (2 FAILED, 1 CANCELLED), so there is nothing to compare."
    )
    assert sentences.no_success([JobState.FAILED, JobState.RUNNING]) == "No trial has succeeded yet."
    assert sentences.so_far("No trial has succeeded yet.", 1, 2) == (
        "So far, with 1 of 2 trials unfinished: No trial has succeeded yet."
    )
    assert sentences.NOTHING_HELD_OUT.startswith("Nothing was held out, so no point can be preferred")
    assert sentences.different_rows().startswith("The points were measured on different held-out rows, so they are not")
    measured = PointResult(1, {"seed": 1}, (1,), {"validation/loss": Estimate(0.5371)})
    assert sentences.only_loss([PointResult(0, {}, (0,), {}), measured], "validation/loss") == (
        "Only validation/loss was measured, and one number for each point cannot be tested: the lowest is 0.537, of "
        "point 1 (seed 1). Name a metric in evaluation.metrics to compare points."
    )
    assert sentences.only_loss([], "validation/loss").startswith(
        "No metric was measured, so no point can be preferred."
    )
    assert sentences.not_measured(Measure("eval/chrf", Unit.HUNDRED, True)) == (
        "eval/chrf is not known for any point yet; run the same command again to measure it."
    )
