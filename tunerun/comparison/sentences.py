"""A verdict in words: one to three sentences that say what the test allows and no more, and notes beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from tunerun.comparison import labels, numbers
from tunerun.comparison.costs import is_cheaper
from tunerun.comparison.results import BaselineResult, Decision, Measure, Outcome, PointResult, Stopped
from tunerun.job import JobState
from tunerun.metrics import Unit

NOTHING_HELD_OUT = (
    "Nothing was held out, so no point can be preferred: a low training loss does not show a good model. "
    "Set dataset.validation."
)

NO_TEST_SET = "There is no test set: set dataset.test.path or dataset.test.fraction."

TEST_SET_IS_CLOSED = "The test set has not been opened; tunerun compare --final opens it for the advised point."

LEAST_UNITS = 5
"""Rows or clusters below which no test can reach p = 0.05: the smallest mid-p of four is 0.0625."""

# A sweep may have thousands of points.
MOST_NAMED = 5
"""Points that are named one by one; of more, how many they are."""

_ONLY_ONE = "the tuned model"
"""Of a sweep that sets nothing."""

_AGAIN = "run the same command again to measure"


@dataclass(frozen=True)
class Case:
    """What a sentence is about.

    Attributes:
        points: all of the table. compared: the numbers of those that were compared.
        baselines: all of the table, also those that are not measured.
    """

    decision: Decision
    measure: Measure
    points: Sequence[PointResult]
    compared: Sequence[int]
    baselines: Sequence[BaselineResult]


def no_success(states: Sequence[JobState]) -> str:
    """Return the sentence of a sweep in which no trial has succeeded.

    Args:
        states: of all trials.
    """
    if any(not state.is_finished for state in states):
        return "No trial has succeeded yet."
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    listed = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"No trial has succeeded ({listed}), so there is nothing to compare."


def different_rows() -> str:
    """Return the sentence of points that were measured on different held-out rows."""
    return (
        "The points were measured on different held-out rows, so they are not compared. "
        "Give the rows a file of their own (dataset.validation.path), or keep dataset.split_seed the same."
    )


def only_loss(points: Sequence[PointResult], name: str) -> str:
    """Return the sentence of a sweep without a metric: a mean validation loss has no rows to test.

    Args:
        name: of the loss among the points' estimates.
    """
    measured = [point for point in points if name in point.estimates]
    advice = "Name a metric in evaluation.metrics to compare points."
    if not measured:
        return f"No metric was measured, so no point can be preferred. {advice}"
    lowest = min(measured, key=lambda point: point.estimates[name].value)
    return (
        f"Only {name} was measured, and one number for each point cannot be tested: the lowest is "
        f"{numbers.loss(lowest.estimates[name].value)}, of {_named(lowest)}. {advice}"
    )


def not_measured(measure: Measure) -> str:
    """Return the sentence for trials that have succeeded and have no answers yet."""
    return f"{measure.name} is not known for any point yet; {_AGAIN} it."


def opened_again(days: Sequence[str]) -> str:
    """Return the note on a test set that was opened more than once.

    Args:
        days: of each opening, as YYYY-MM-DD.
    """
    listed = ", ".join(dict.fromkeys(days))
    return f"The test set was opened {len(days)} times ({listed}); what was chosen after the first time has seen it."


def stopped_early(stops: Mapping[int, Stopped], alpha: float) -> str:
    """Return the note on points that were stopped early.

    Args:
        stops: by number of the point.
        alpha: error rate of all pairs of points together.
    """
    named = [f"point {number} ({stopped.words})" for number, stopped in list(stops.items())[:MOST_NAMED]]
    more = [f"{len(stops) - MOST_NAMED} more"] if len(stops) > MOST_NAMED else []
    return (
        f"Decided early to be worse, and neither compared nor advised: {listed_words([*named, *more])}; the "
        "remaining rows were not asked (evaluation.stop_early). The test is valid after every row, with an error rate "
        f"of {100 * alpha:g} % for all pairs of points together."
    )


def on_the_test_set(sentence: str) -> str:
    """Return a sentence that says it is about the test set."""
    return f"On the test set: {sentence}"


def so_far(sentence: str, unfinished: int, trials: int) -> str:
    """Return the sentence of a sweep that is not complete.

    Args:
        unfinished, trials: number of unfinished trials, and of all.
    """
    return f"So far, with {unfinished} of {trials} trials unfinished: {sentence}"


def sentence(case: Case) -> str:
    """Return the sentences of a decision: what can be claimed, which points are as good, and what was not measured."""
    decision = case.decision
    if decision.about is None:
        return not_measured(case.measure)
    if decision.nothing_right:
        # All models are equal then, and "cannot tell" would hide that the metric does not fit the answers.
        return (
            f"Nothing can be decided: no answer of any point or baseline scores above 0 by {case.measure.name}. "
            "If answers are free text, name another metric, such as chrf or contains, in evaluation.metrics: the "
            "stored answers are scored again and no model is asked."
        )
    rows = numbers.counted(decision.rows, "held-out row")
    if (decision.clusters or decision.rows) < LEAST_UNITS:
        if decision.clusters is None:
            return f"{rows} cannot decide anything: at least {LEAST_UNITS} are needed. Hold out more."
        clusters = numbers.counted(decision.clusters, "cluster")
        return (
            f"The {rows} form {clusters}, and fewer than {LEAST_UNITS} cannot decide anything. "
            "Hold out rows of more sources."
        )
    parts = [_claim(case)]
    if decision.outcome in (Outcome.BETTER, Outcome.NONE) and decision.advised is not None:
        parts.append(_others(case))
    if decision.few_rows_decide and decision.outcome in (Outcome.BETTER, Outcome.WORSE):
        # Flips test symmetry and not the mean: with rare large losses the level was 0.29 at 12 rows.
        parts.append("Fewer than five rows carry half of this difference: look at them first.")
    # A baseline that was not measured might have been the hardest to beat.
    missing = [words(each) for each in case.baselines if case.measure.name not in each.estimates]
    if missing and decision.against is not None:
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        parts.append(f"{_upper(listed_words(missing))} {verb} not measured, so nothing is said about {them}.")
    return " ".join(filter(None, parts))


def _claim(case: Case) -> str:
    """What the test allows to say about the one point, in the words of its outcome."""
    decision, against = case.decision, _against(case)
    point = _named(next(point for point in case.points if point.number == decision.about))
    is_only_one = len(case.compared) == 1
    match decision.outcome:
        case Outcome.BETTER:
            # With one seed only the trained model was tested, and not its settings.
            one_seed = "it is" if point == _ONLY_ONE else "this trained model is"
            subject = f"over {decision.seeds} seeds it is" if decision.seeds > 1 else one_seed
            return f"Use {point}: {subject} better than {against} ({_difference(case)}, {_chance(case)})."
        case Outcome.WORSE:
            figures = f"{_difference(case)}, {_chance(case)}"
            # There is no other point that could be used instead, so the advice is about this one.
            if is_only_one:
                return f"{_upper(point)} is worse than {against} ({figures}): do not use it."
            return f"Use none of the points: the best, {point}, is worse than {against} ({figures})."
        case Outcome.EQUIVALENT:
            within = _with_unit(numbers.figure(decision.worth, case.measure.unit, decision.rows), case.measure)
            best = "" if is_only_one else ", the best point,"
            return (
                f"{_upper(point)}{best} and {against} are equal within {within} "
                f"({_difference(case)}): nothing worth having is gained."
            )
        case Outcome.CANNOT_TELL:
            units = numbers.counted(decision.rows, "held-out row")
            if decision.clusters is not None:
                units += f" in {numbers.counted(decision.clusters, 'cluster')}"
            if decision.seeds > 1:
                units += f" and {decision.seeds} seeds"
            text = f"No point can be said to be better than {against}: the best, {point}, differs"
            if is_only_one:
                text = f"{_upper(point)} cannot be said to be better than {against}: it differs"
            more = ""
            if decision.rows_needed is not None:
                unit = int(10 ** max(0, len(str(decision.rows_needed)) - 2))
                rounded = -(-decision.rows_needed // unit) * unit  # up to two digits, as it is an estimate
                more = f" About {rounded:,} rows would show such a difference."
            return (
                f"{text} by {_difference(case)} ({_chance(case)}), which {units} cannot distinguish from chance.{more}"
            )
        case Outcome.NONE if decision.advised is None:
            return f"No baseline is measured, so it is not known whether tuning helps; {_AGAIN} them."
        case Outcome.NONE:
            return f"Use {point}, but whether it is better than the base model is not known: there is no baseline."


def _others(case: Case) -> str:
    """The tied set, and why this point of it is the advised one."""
    decision = case.decision
    others = [number for number in decision.tied if number != decision.advised]
    if not others:
        rest = [number for number in case.compared if number != decision.advised]
        if not rest:
            return ""
        return f"Point {rest[0]} is worse." if len(rest) == 1 else f"The other {len(rest)} points are worse than it."
    # The advised point is the cheapest that beats every baseline; a cheaper tied point was not shown to beat them.
    points = {point.number: point for point in case.points}
    own, tied = points[decision.advised or 0], [points[number] for number in others]
    if any(is_cheaper(each, own) for each in tied):
        why = f"of those that are better than {_against(case)}, {own.number} is the cheapest"
    elif all(is_cheaper(own, each) for each in tied):
        why = f"{own.number} is the cheapest of them"
    elif not any(is_cheaper(own, each) for each in tied):
        why = "all of them cost the same"
    else:
        why = "none of them is cheaper"
    listed = f"{len(others)} other points"
    if len(others) <= MOST_NAMED:
        listed = f"{'Point' if len(others) == 1 else 'Points'} {listed_words(list(map(str, others)))}"
    return f"{listed} cannot be distinguished from it; {why}."


def notes(case: Case) -> tuple[str, ...]:
    """Return what a reader should know beside the sentence, one sentence each."""
    if case.decision.about is None:
        return ()
    return (*_notes_on_points(case), *_notes_on_rows(case), *_notes_on_the_test(case))


def _notes_on_points(case: Case) -> Iterator[str]:
    decision, unit = case.decision, case.measure.unit
    if decision.against is not None and all(len(point.trials) == 1 for point in case.points):
        yield (
            "Each point has one seed, so this is about these trained models and not about their settings; how far "
            "another seed moves them is not known (sweep.replicates=3 shows it)."
        )
    if decision.corrected is not None and len(case.compared) > 1:
        # Of four to twelve equal points the best is 4 to 12 points too high (24 to 100 rows, simulated).
        value = numbers.measure(decision.corrected, unit, decision.rows)
        between = numbers.interval(decision.corrected_low, decision.corrected_high, unit, decision.rows)
        yield (
            f"The best of {len(case.compared)} points looks better than it is, because it was chosen by these rows; "
            f"without that luck its {case.measure.name} is about {value} ({_confidence(decision)} % interval "
            f"{between})."
        )


def _notes_on_rows(case: Case) -> Iterator[str]:
    decision = case.decision
    if decision.against is not None and case.measure.unit is Unit.SHARE:
        rows = numbers.counted(decision.rows, "held-out row")
        comparisons = numbers.counted(decision.family, "comparison")
        if decision.smallest_visible is None:
            # Even a point that is always right would differ from this baseline on too few rows.
            yield f"{rows} show no difference to a baseline of this value in {comparisons} (power 80 %)."
        else:
            least = numbers.figure(decision.smallest_visible, Unit.SHARE, decision.rows)
            yield (
                f"{rows} show differences of about {least} points or more in {comparisons} (power 80 %, unrelated "
                "errors)."
            )
    if decision.clusters is not None and decision.clusters >= LEAST_UNITS:
        yield f"The {decision.rows:,} rows form {decision.clusters:,} clusters, which are tested in their place."
    if decision.rows_for_equality is not None and decision.rows < decision.rows_for_equality:
        within = _with_unit(numbers.figure(decision.worth, case.measure.unit, decision.rows), case.measure)
        yield f'"Equal within {within}" is out of reach below {decision.rows_for_equality:,} rows.'


def _notes_on_the_test(case: Case) -> Iterator[str]:
    decision = case.decision
    if decision.outcome in (Outcome.BETTER, Outcome.WORSE):
        # Single-step intervals and a step-down test with half-counted ties may disagree at the edge; the sentence
        # follows p.
        if decision.low is not None and decision.high is not None and decision.low <= 0 <= decision.high:
            yield (
                "The interval, which holds for all comparisons at once, reaches 0; the test, one step at a time, does "
                "not."
            )
        about = [point for point in case.points if point.number == decision.about]
        differences = [each for point in about for each in point.against if each.baseline == decision.against]
        if differences and differences[0].holm_p > decision.alpha:
            p = numbers.p_value(differences[0].holm_p)
            yield f"By Holm's correction, which can be checked by hand and finds less, p = {p}."
    if decision.against is not None and len(case.compared) > 1:
        # Each alone is wrong in at most 5.4 % of simulated worlds without a difference, both together in up to 7.2 %.
        yield (
            "What is better than a baseline and what cannot be distinguished from the best point are two statements, "
            f"each with an error rate of its own ({100 * decision.alpha:g} %)."
        )


# Words


def words(baseline: BaselineResult) -> str:
    """Return what a sentence calls a baseline."""
    return baseline.words or f"the baseline {baseline.name}"


def _against(case: Case) -> str:
    baselines: Mapping[str, BaselineResult] = {each.name: each for each in case.baselines}
    name = case.decision.against or ""
    return words(baselines[name]) if name in baselines else f"the baseline {name}"


def _named(point: PointResult) -> str:
    """A point with what it sets; a sweep of one point that sets nothing has just its tuned model."""
    text = labels.label(point.overrides)
    return f"point {point.number} ({text})" if text else _ONLY_ONE


def _chance(case: Case) -> str:
    """`95 % interval 27 to 68, p < 0.0001, corrected for 4 points`."""
    decision, unit = case.decision, case.measure.unit
    p = numbers.p_value(decision.p)
    parts = []
    # With very few rows for the family's critical value no difference can be excluded: the interval has no ends.
    if decision.low is not None and decision.high is not None and isfinite(decision.low) and isfinite(decision.high):
        between = numbers.interval(decision.low, decision.high, unit, decision.rows)
        parts.append(f"{_confidence(decision)} % interval {between}")
    parts.append(f"p {p}" if p.startswith("<") else f"p = {p}")
    if decision.family == len(case.compared) > 1:
        parts.append(f"corrected for {decision.family:,} points")
    elif decision.family > 1:
        parts.append(f"corrected for {decision.family:,} comparisons")
    return ", ".join(parts)


def _difference(case: Case) -> str:
    decision = case.decision
    return _with_unit(numbers.difference(decision.difference, case.measure.unit, decision.rows), case.measure)


def _with_unit(text: str, measure: Measure) -> str:
    """A difference with its unit; a share's is percentage points, and what has no unit is called by its name."""
    if measure.unit is Unit.SHARE:
        return f"{text} points"
    return f"{text} nats" if measure.unit is Unit.NATS else f"{text} {measure.name.removeprefix('eval/')}"


def _confidence(decision: Decision) -> str:
    return f"{100 * (1 - decision.alpha):g}"


def listed_words(parts: Sequence[str]) -> str:
    """`1`, `1 and 2`, `1, 2 and 3`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
