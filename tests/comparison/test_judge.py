"""From a real ledger to a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.comparison.sweeps import EPOCHS, Trained, frozen
from tunerun.comparison import judge, trial_result
from tunerun.comparison.results import Outcome
from tunerun.errors import InputError
from tunerun.job import JobState
from tunerun.schema import Evaluation

GOOD, FAIR, BAD = "1" * 17 + "0" * 7, "1" * 15 + "0" * 9, "0" * 24
FEW = "0" * 20 + "1110"


def test_a_sweep_ends_in_a_sentence(tmp_path: Path) -> None:
    """Answers are scored, points compared with every baseline, and the cheapest of the best is advised."""
    lab = frozen(tmp_path, [Trained(FAIR, tokens=100), Trained(GOOD, tokens=200)], {"base": BAD, "base+4": FEW})
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.sentence.startswith(
        "Use point 0 (5 epochs): this trained model is better than the base model with 4 examples in the prompt (+50"
    )
    assert verdict.sentence.endswith("Point 1 cannot be distinguished from it; 0 is the cheapest of them.")
    assert verdict.best == 0
    assert verdict.metric == "eval/exact_match"
    assert [point.is_tied for point in verdict.points] == [True, True]
    assert verdict.points[1].estimates["eval/exact_match"].value == pytest.approx(17 / 24)
    assert [each.baseline for each in verdict.points[0].against] == ["base", "base+4"]
    assert verdict.trials[1].metrics["eval/exact_match"] == pytest.approx(17 / 24)
    assert verdict.trials[1].metrics["validation/loss"] == pytest.approx(0.6)
    assert [each.trials for each in verdict.baselines] == [(0, 1), (0, 1)]
    assert verdict.baselines[0].metrics == {"eval/exact_match": 0, "validation/loss": 2.0}
    assert verdict.baselines[1].metrics == {"eval/exact_match": pytest.approx(3 / 24)}
    assert verdict.is_complete
    assert verdict.is_measured
    assert [trial.record.number for trial in verdict.ranked] == [0, 1]
    assert judge(lab.ledger, lab.sweep) == verdict


def test_a_new_metric_asks_no_model(tmp_path: Path) -> None:
    """The metrics of an experiment that is named replace the frozen ones; the first decides, the others are shown."""
    answers = ["yes it is"] * 17 + ["no"] * 7
    lab = frozen(tmp_path, [Trained(answers)])
    frozen_verdict = judge(lab.ledger, lab.sweep)
    assert frozen_verdict.decision.outcome is Outcome.CANNOT_TELL
    assert frozen_verdict.decision.nothing_right
    assert frozen_verdict.sentence.startswith(
        "Nothing can be decided: no answer of any point or baseline scores above 0"
    )
    verdict = judge(lab.ledger, lab.sweep, evaluation=Evaluation(metrics=["contains", "exact_match", "macro_f1"]))
    assert verdict.sentence.startswith("Use point 0 (5 epochs)")
    assert [measure.name for measure in verdict.measures] == ["eval/contains", "eval/exact_match", "eval/macro_f1"]
    assert set(verdict.points[0].estimates) == {measure.name for measure in verdict.measures} | {"validation/loss"}
    by_f1 = judge(lab.ledger, lab.sweep, evaluation=Evaluation(metrics=["contains", "macro_f1"], decide_by="macro_f1"))
    assert by_f1.metric == "eval/macro_f1"


def test_the_loss_of_expected_answers_is_a_metric(tmp_path: Path) -> None:
    """Of a metric of losses less is better, and each row has one."""
    losses = [0.5 + n / 100 for n in range(24)]
    lab = frozen(
        tmp_path,
        [Trained(GOOD, losses=losses)],
        base_losses=[loss + 1 + 0.1 * (n % 3) for n, loss in enumerate(losses)],
        evaluation={"metrics": ["answer_loss"]},
    )
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.decision.outcome is Outcome.BETTER
    assert verdict.decision.difference == pytest.approx(-1.1)
    assert verdict.trials[0].metrics["eval/answer_loss"] == pytest.approx(sum(losses) / 24)


def test_replicates_are_one_point(tmp_path: Path) -> None:
    """Seeds have a mean, a spread and a consistency, and support a claim about settings."""
    seeds = ["1" * 20 + "0" * 4, "1" * 19 + "0" * 5, "1" * 18 + "0" * 6]
    trials = [Trained(answers, overrides={EPOCHS: 5, "seed": seed}) for seed, answers in enumerate(seeds)]
    lab = frozen(tmp_path, [*trials, Trained(BAD, overrides={EPOCHS: 3, "seed": 0})])
    verdict = judge(lab.ledger, lab.sweep)
    assert [point.trials for point in verdict.points] == [(0, 1, 2), (3,)]
    assert dict(verdict.points[0].overrides) == {EPOCHS: 5}
    estimate = verdict.points[0].estimates["eval/exact_match"]
    assert estimate.value == pytest.approx(19 / 24)
    assert estimate.spread == pytest.approx(1 / 24)
    assert estimate.seeds == 3
    assert verdict.points[0].consistency == pytest.approx(22 / 24)
    assert verdict.points[1].consistency is None
    assert verdict.sentence.startswith("Use point 0 (5 epochs): over 3 seeds it is better than the base model (+79")
    assert [trial.point for trial in verdict.trials] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        ([JobState.FAILED] * 2, "No trial has succeeded (2 FAILED), so there is nothing to compare."),
        ([JobState.STOPPED] * 2, "No trial has succeeded (2 STOPPED), so there is nothing to compare."),
        (
            [JobState.FAILED, JobState.RUNNING],
            "So far, with 1 of 2 trials unfinished: No trial has succeeded yet.",
        ),
    ],
)
def test_nothing_has_succeeded(tmp_path: Path, states: list[JobState], sentence: str) -> None:
    """The sentence says why; nothing is advised."""
    lab = frozen(tmp_path, [Trained(None, state) for state in states])
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.sentence == sentence
    assert verdict.best is None
    assert verdict.decision.outcome is Outcome.NONE


def test_a_sweep_that_is_not_complete_says_so(tmp_path: Path) -> None:
    """Points with answers are compared, and those without are named."""
    trials = [Trained(GOOD), Trained(None), Trained(None, JobState.RUNNING), Trained(GOOD, JobState.STOPPED)]
    lab = frozen(tmp_path, trials)
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.sentence.startswith("So far, with 1 of 4 trials unfinished: Use point 0 (5 epochs): ")
    assert "Not compared, because they have no answers: points 1, 2 and 3." in verdict.notes
    assert not verdict.is_measured
    assert [point.is_tied for point in verdict.points] == [True, False, False, False]


def test_baselines_that_are_not_measured(tmp_path: Path) -> None:
    """One of two is named; if none is measured, no point is advised; if none was planned, the cheapest is."""
    some = frozen(tmp_path / "some", [Trained(GOOD)], {"base": BAD, "base+4": None})
    verdict = judge(some.ledger, some.sweep)
    assert verdict.best == 0
    assert verdict.sentence.endswith(
        "The base model with 4 examples in the prompt is not measured, so nothing is said about it."
    )
    none = frozen(tmp_path / "none", [Trained(GOOD)], {"base": None})
    verdict = judge(none.ledger, none.sweep)
    assert (verdict.best, verdict.decision.outcome) == (None, Outcome.NONE)
    assert verdict.sentence.startswith("No baseline is measured, so it is not known whether tuning helps; run the same")
    unplanned = frozen(tmp_path / "unplanned", [Trained(GOOD)], {})
    verdict = judge(unplanned.ledger, unplanned.sweep)
    assert (verdict.best, verdict.decision.outcome) == (0, Outcome.NONE)
    assert verdict.sentence == (
        "Use point 0 (5 epochs), but whether it is better than the base model is not known: there is no baseline."
    )


def test_trials_that_are_not_measured(tmp_path: Path) -> None:
    """Where all trials have succeeded and none has answered, the sentence says how to measure them."""
    lab = frozen(tmp_path, [Trained(None)])
    assert judge(lab.ledger, lab.sweep).sentence == (
        "eval/exact_match is not known for any point yet; run the same command again to measure it."
    )


def test_without_a_metric_only_the_loss_is_shown(tmp_path: Path) -> None:
    """A mean loss has no rows to test, so it decides nothing."""
    lab = frozen(tmp_path, [Trained(GOOD), Trained(GOOD)], evaluation={"metrics": []})
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.sentence == (
        "Only validation/loss was measured, and one number for each point cannot be tested: the lowest is 0.500, of "
        "point 0 (5 epochs). Name a metric in evaluation.metrics to compare points."
    )
    assert (verdict.metric, verdict.best) == ("validation/loss", None)
    assert [measure.name for measure in verdict.measures] == ["validation/loss"]
    assert verdict.is_measured


def test_templates_are_compared_where_their_rows_are_the_same(tmp_path: Path) -> None:
    """The plan says which rows a held-out set has; without it, equal expected answers are taken for equal rows."""
    trials = [Trained(GOOD, template="{}"), Trained(BAD, template="Question: {}")]
    named = frozen(tmp_path / "said", trials, rows=["same", "same"])
    assert judge(named.ledger, named.sweep).sentence.startswith("Use point 0 (5 epochs)")
    unnamed = frozen(tmp_path / "unsaid", trials)
    assert judge(unnamed.ledger, unnamed.sweep).decision.tied == (0,)
    other = frozen(tmp_path / "other", trials, rows=["these", "those"])
    verdict = judge(other.ledger, other.sweep)
    assert verdict.sentence.startswith("The points were measured on different held-out rows, so they are not compared.")
    assert (verdict.best, verdict.decision.outcome) == (None, Outcome.NONE)
    assert verdict.points[0].estimates["eval/exact_match"].value == pytest.approx(17 / 24)


def test_clusters_of_the_plan_count_as_one_row_each(tmp_path: Path) -> None:
    """Twenty-four right answers in four clusters decide nothing."""
    lab = frozen(tmp_path, [Trained("1" * 24)], clusters=[row // 6 for row in range(24)])
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.decision.clusters == 4
    assert verdict.sentence.startswith("The 24 held-out rows form 4 clusters, and fewer than 5 cannot decide anything.")


def test_several_sweeps_are_one_family(tmp_path: Path) -> None:
    """Points are numbered across sweeps, shared trials are shown once, and the correction is for all comparisons."""
    first = frozen(tmp_path, [Trained(FAIR, tokens=300), Trained(BAD)])
    shared = Trained(FAIR, tokens=300)
    second = frozen(tmp_path, [shared, Trained(GOOD, tokens=99)], sweep_id="support-5e6f7a8b", ledger=first.ledger)
    verdict = judge(first.ledger, [first.sweep, second.sweep])
    assert [(point.number, point.trials) for point in verdict.points] == [(0, (0,)), (1, (1,)), (2, (2,))]
    assert [trial.sweep for trial in verdict.trials] == [first.sweep.id, first.sweep.id, second.sweep.id]
    assert verdict.decision.advised == verdict.best == 2
    assert verdict.decision.family == 3
    assert len(verdict.baselines) == 1
    assert "Trials that several of the sweeps share are shown once (1 of them)." in verdict.notes


def test_sweeps_over_different_rows_are_refused(tmp_path: Path) -> None:
    """The error names the sweeps."""
    first = frozen(tmp_path, [Trained(GOOD)])
    second = frozen(tmp_path, [Trained("1" * 30)], sweep_id="other-5e6f7a8b", ledger=first.ledger)
    with pytest.raises(
        InputError, match=r"^support-1a2b3c4d and other-5e6f7a8b were measured on different held-out rows"
    ):
        judge(first.ledger, [first.sweep, second.sweep])


def test_the_test_set_is_for_the_point_that_was_named(tmp_path: Path) -> None:
    """Once opened, it compares the named point with the baselines; a second opening is noted."""
    lab = frozen(tmp_path, [Trained(GOOD, test=FAIR), Trained(FAIR, test=GOOD)])
    assert judge(lab.ledger, lab.sweep, held_out="test").sentence == (
        "The test set has not been opened; tunerun compare --final opens it for the advised point."
    )
    lab.ledger.open_test(lab.sweep.id, [0], 1_764_000_000.0)
    verdict = judge(lab.ledger, lab.sweep, held_out="test")
    assert verdict.held_out == "test"
    assert verdict.decision.family == 1
    assert verdict.sentence.startswith(
        "On the test set: Use point 0 (5 epochs): this trained model is better than the base model (+62 points, 95 %"
    )
    assert not any("opened" in note for note in verdict.notes)
    lab.ledger.open_test(lab.sweep.id, [1], 1_764_100_000.0)
    again = judge(lab.ledger, lab.sweep, held_out="test")
    assert again.decision.about == 1
    assert (
        "The test set was opened 2 times (2025-11-24, 2025-11-25); what was chosen after the first time has seen it."
        in again.notes
    )


def test_worth_and_alpha_are_the_experiments(tmp_path: Path) -> None:
    """`evaluation.worth` and `evaluation.alpha` count, frozen with the sweep or composed later."""
    answers = "1" * 150 + "0" * 150
    base = "0" + "1" * 149 + "0" * 149 + "1"
    lab = frozen(tmp_path, [Trained(answers)], {"base": base}, evaluation={"worth": 0.05, "alpha": 0.1})
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.decision.outcome is Outcome.EQUIVALENT
    assert verdict.decision.alpha == 0.1
    composed = judge(lab.ledger, lab.sweep, evaluation=Evaluation(metrics=["exact_match"]))
    assert composed.decision.outcome is Outcome.CANNOT_TELL
    assert composed.decision.alpha == 0.05


def test_one_trial_is_read_by_itself(tmp_path: Path) -> None:
    """The result of one trial that has ended is read without the rest of the sweep."""
    lab = frozen(tmp_path, [Trained(GOOD), Trained(None, JobState.FAILED), Trained(None, JobState.PLANNED)])
    verdict = judge(lab.ledger, lab.sweep)
    for record, whole in zip(lab.trials, verdict.trials, strict=True):
        one = trial_result(lab.ledger, record)
        assert (one.state, dict(one.metrics), one.last_step) == (whole.state, dict(whole.metrics), whole.last_step)


def test_baselines_of_the_same_words_are_distinguished_by_their_names(tmp_path: Path) -> None:
    """With a template axis there are two base models in the table; the better one counts for every point."""
    lab = frozen(tmp_path, [Trained("1" * 10 + "0" * 14)], {"base-0": BAD, "base-1": "0" * 4 + "1" * 20})
    verdict = judge(lab.ledger, lab.sweep)
    assert (verdict.decision.outcome, verdict.decision.against) == (Outcome.WORSE, "base-1")
    assert "is worse than the base model (base-1) (-42 points" in verdict.sentence


def test_always_giving_one_answer_is_a_baseline(tmp_path: Path) -> None:
    """Three labels: 44 % is better than the base model's 0 %, and not than always giving one label."""
    labels = [("a", "b", "c")[n % 3] for n in range(36)]
    tuned = [label if n % 9 < 4 else "?" for n, label in enumerate(labels)]
    lab = frozen(tmp_path, [Trained(tuned)], {"base": ["?"] * 36, "majority": ["a"] * 36}, expected=labels)
    verdict = judge(lab.ledger, lab.sweep)
    assert verdict.best is None
    assert verdict.sentence.startswith(
        "Point 0 (5 epochs) cannot be said to be better than always giving the most frequent answer: it differs by +11"
    )
