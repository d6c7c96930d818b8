"""Verdicts made by hand, for tests of what shows them: no ledger, no engine, no statistics.

The numbers are like those of real sweeps, and the same at every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunerun.comparison.curves import Advice, Shape
from tunerun.comparison.results import (
    BaselineResult,
    Decision,
    Difference,
    Estimate,
    Measure,
    Outcome,
    PointResult,
    TrialResult,
    Verdict,
)
from tunerun.digest import digest
from tunerun.job import BaseModelRef, Failure, FailureKind, JobState, Scalar, TunedModel
from tunerun.ledger import SweepRecord, TrialRecord
from tunerun.metrics import Unit
from tunerun.statistics.intervals import tango, wilson

EXACT = Measure("eval/exact_match", Unit.SHARE, higher_is_better=True)
CHRF = Measure("eval/chrf", Unit.HUNDRED, higher_is_better=True)
LOSS = Measure("validation/loss", Unit.NATS, higher_is_better=False)

LEARNING_RATE, EPOCHS = "hyperparameters.learning_rate", "hyperparameters.epoch_count"
STEPS = 40
Z = 2.39
"""About the critical value of a family of eight."""


def sweep(name: str = "next_number", short: str = "0096e4a4", command: str = "") -> SweepRecord:
    """A sweep's record."""
    return SweepRecord(
        id=f"{name}-{short}",
        experiment=name,
        created_at=1_764_000_000.0,
        document={"command": command or f"tunerun run experiment={name}", "trials": 4},
    )


def record(number: int, overrides: Mapping[str, Scalar], seed: int = 0, name: str = "next_number") -> TrialRecord:
    """A frozen trial."""
    key = digest([name, number, dict(overrides), seed])
    config = {
        "name": name,
        "seed": seed,
        "model": {"name": "smollm2-135m"},
        "dataset": {"path": "train.json"},
        "backend": {"kind": "local"},
        "template": {"text_input": "{{ text_input }}", "output": "{{ output }}"},
        "hyperparameters": {"epoch_count": overrides.get(EPOCHS, 5), "learning_rate": overrides.get(LEARNING_RATE)},
        "evaluation": {"metrics": ["exact_match", "chrf"]},
    }
    return TrialRecord(
        number=number,
        key=key,
        baselines=(digest([name, "base"]),),
        asked=digest("how"),
        training=digest([name, "training"]),
        held_out={"validation": digest([name, "validation"])},
        tokens=2715,
        steps=STEPS,
        overrides=dict(overrides),
        config=config,
    )


def trial(
    number: int,
    overrides: Mapping[str, Scalar],
    metrics: Mapping[str, float] | None = None,
    *,
    point: int | None = None,
    seed: int = 0,
    state: JobState = JobState.SUCCEEDED,
    failure: Failure | None = None,
    advice: Advice | None = None,
    last_step: int | None = None,
    of: SweepRecord | None = None,
) -> TrialResult:
    """A trial that is done and has a tuned model, or is in another state."""
    of = of or sweep()
    frozen = record(number, overrides, seed, of.experiment)
    name = f"tunedModels/{of.experiment.replace('_', '-')}-{frozen.key[:12]}"
    tuned = TunedModel(name, BaseModelRef("smollm2-135m", "smollm2"), f"/home/me/runs/tuned_models/{frozen.key[:12]}")
    is_done = state is JobState.SUCCEEDED
    return TrialResult(
        record=frozen,
        state=state,
        metrics=dict(metrics or {}),
        tuned_model=tuned if is_done else None,
        failure=failure,
        advice=(advice or FLAT) if is_done else None,
        last_step=(STEPS if is_done else 0) if last_step is None else last_step,
        point=number if point is None else point,
        sweep=of.id,
    )


FLAT = Advice(Shape.FLAT, "flat after epoch 4: epoch_count: 4 gives the same training loss", 4)
FALLING = Advice(Shape.FALLING, "still falling: more epochs lower the training loss further")


def share(right: float, rows: int = 24, spread: float | None = None, seeds: int = 1) -> Estimate:
    """A share of right rows with Wilson's interval."""
    low, high = wilson(right / rows, rows)
    return Estimate(right / rows, low, high, spread, seeds)


def against(
    point: int, baseline: str, right: int, base_right: int, rows: int = 24, outcome: Outcome | None = None
) -> Difference:
    """A point against a baseline that has no row right which the point has not."""
    wins, losses = max(0, right - base_right), max(0, base_right - right)
    low, high = tango(wins, losses, rows, Z)
    by_interval = Outcome.BETTER if low > 0 else Outcome.WORSE if high < 0 else Outcome.CANNOT_TELL
    p = min(1.0, 8 * 0.5 ** max(wins, losses))
    return Difference(
        point=point,
        baseline=baseline,
        value=(right - base_right) / rows,
        low=low,
        high=high,
        p=p,
        holm_p=min(1.0, 1.2 * p),
        outcome=outcome or by_interval,
        wins=wins,
        losses=losses,
    )


def better_than(difference: Difference, tied: tuple[int, ...] | None = None, **more: Any) -> Decision:
    """The decision that a point is better than its hardest baseline."""
    return Decision(
        outcome=Outcome.BETTER,
        advised=difference.point,
        tied=tied or (difference.point,),
        against=difference.baseline,
        metric=EXACT.name,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p=difference.p,
        **more,
    )


def baseline(name: str, right: float, trials: Sequence[int], rows: int = 24, chrf: float = 12.0) -> BaselineResult:
    """A baseline with a number of right rows."""
    is_model = not name.startswith("majority")
    estimates = {EXACT.name: share(right, rows), CHRF.name: Estimate(chrf)}
    if name == "base":
        estimates[LOSS.name] = Estimate(2.98)
    return BaselineResult(name, digest(["subject", name]), "smollm2-135m" if is_model else "", tuple(trials), estimates)


DEMO_BASELINES = {"base": (0, 6.4), "base+4": (3, 21.9), "majority": (1, 4.0)}
"""Rows right and chrF of each baseline of the demo."""


def demo_point(number: int, overrides: Mapping[str, Scalar], right: int, loss: float, chrf: float) -> PointResult:
    """A point of one trial that cannot be distinguished from the best."""
    return PointResult(
        number=number,
        overrides=overrides,
        trials=(number,),
        estimates={EXACT.name: share(right), CHRF.name: Estimate(chrf), LOSS.name: Estimate(loss)},
        against=tuple(against(number, name, right, base) for name, (base, _) in DEMO_BASELINES.items()),
        is_tied=True,
        tied_p=[0.72, 1.0, 0.31, 0.5][number],
        tokens=2715 * (1 + number % 2),
        rank=8,
        answer_length=7.5 + number,
    )


def demo_verdict() -> Verdict:
    """The shipped demo: four points of one trial that cannot be distinguished, three baselines, 24 rows."""
    grid: list[dict[str, Scalar]] = [{LEARNING_RATE: lr, EPOCHS: n} for lr in (0.001, 0.0005) for n in (5, 10)]
    values = [
        (15, 0.0198, 0.634, 61.2),
        (17, 0.00121, 0.571, 70.4),
        (13, 0.136, 0.537, 55.0),
        (14, 0.0024, 0.763, 58.8),
    ]
    trials, points = [], []
    for number, (overrides, (right, train, loss, chrf)) in enumerate(zip(grid, values, strict=True)):
        metrics = {
            "train/mean_loss": round(0.8 * train, 6),
            "train/epoch_mean_loss": train,
            "train/seconds": 16.4 * (1 + number % 2),
            "tokens/train": 2715.0 * (1 + number % 2),
            LOSS.name: loss,
            EXACT.name: right / 24,
            CHRF.name: chrf,
        }
        trials.append(trial(number, overrides, metrics, advice=FALLING if number == 2 else FLAT))
        points.append(demo_point(number, overrides, right, loss, chrf))
    return Verdict(
        sweeps=(sweep(),),
        trials=tuple(trials),
        points=tuple(points),
        baselines=tuple(baseline(name, right, range(4), chrf=chrf) for name, (right, chrf) in DEMO_BASELINES.items()),
        measures=(EXACT, CHRF, LOSS),
        decision=better_than(
            points[0].against[1],
            tied=(0, 1, 2, 3),
            family=12,
            smallest_visible=0.36,
            rows=24,
            corrected=0.66,
            corrected_low=0.45,
            corrected_high=0.82,
        ),
        sentence=(
            "Use point 0 (learning_rate 0.001, 5 epochs): better than the base model with 4 examples in the prompt "
            "(+50 points, 95 % interval 27 to 68, p = 0.0020, corrected for 12 comparisons). Points 1, 2 and 3 cannot "
            "be distinguished from it; 0 is the cheapest of them."
        ),
        notes=("24 held-out examples show differences of about 36 points or more.",),
    )


def replicates_verdict() -> Verdict:
    """Two points of three seeds each; the better one differs from the base model and from the other point."""
    of, seeds = sweep("support", "1a2b3c4d"), (0, 1, 2)
    trials: list[TrialResult] = []
    points = []
    for number, (rate, rights, loss) in enumerate(((0.001, (120, 126, 123), 0.41), (0.0001, (84, 90, 81), 0.88))):
        overrides: dict[str, Scalar] = {LEARNING_RATE: rate}
        members = []
        for seed, right in zip(seeds, rights, strict=True):
            metrics = {
                "train/epoch_mean_loss": loss / 2 + 0.01 * seed,
                LOSS.name: loss + 0.02 * seed,
                EXACT.name: right / 150,
                CHRF.name: right / 2,
            }
            members.append(len(trials))
            swept: dict[str, Scalar] = {**overrides, "seed": seed}
            trials.append(trial(len(trials), swept, metrics, point=number, seed=seed, of=of))
        mean = round(sum(rights) / 3)
        points.append(
            PointResult(
                number=number,
                overrides=overrides,
                trials=tuple(members),
                estimates={
                    EXACT.name: share(mean, 150, spread=0.0200 + 0.01 * number, seeds=3),
                    CHRF.name: Estimate(mean / 2, spread=1.5, seeds=3),
                    LOSS.name: Estimate(loss + 0.02, spread=0.02, seeds=3),
                },
                against=(against(number, "base", mean, 15, 150), against(number, "base+4", mean, 60, 150)),
                is_tied=number == 0,
                tied_p=1.0 if number == 0 else 0.0004,
                consistency=0.91 - 0.1 * number,
                tokens=9000,
                rank=8,
                answer_length=11.0,
            )
        )
    hardest = points[0].against[1]
    return Verdict(
        sweeps=(of,),
        trials=tuple(trials),
        points=tuple(points),
        baselines=(baseline("base", 15, range(6), 150), baseline("base+4", 60, range(6), 150)),
        measures=(EXACT, CHRF, LOSS),
        decision=better_than(
            hardest,
            family=4,
            smallest_visible=0.16,
            rows=150,
            clusters=140,
            corrected=0.82,
            corrected_low=0.75,
            corrected_high=0.87,
        ),
        sentence="Use point 0 (learning_rate 0.001): better than the base model with 4 examples in the prompt.",
    )


def incomplete_verdict() -> Verdict:
    """Of four trials one is done, one runs, one waits and one has failed; the baselines are not measured."""
    demo = demo_verdict()
    grid = [point.overrides for point in demo.points]
    trials = (
        demo.trials[0],
        trial(1, grid[1], {"train/mean_loss": 0.52}, state=JobState.RUNNING, last_step=12),
        trial(2, grid[2], state=JobState.PLANNED),
        trial(
            3, grid[3], state=JobState.FAILED, failure=Failure(FailureKind.DIVERGED, "the loss became NaN at step 7")
        ),
    )
    points = tuple(
        replace(point, against=(), is_tied=False, tied_p=None, estimates={} if point.number else point.estimates)
        for point in demo.points
    )
    return replace(
        demo,
        trials=trials,
        points=points,
        baselines=tuple(replace(each, estimates={}) for each in demo.baselines[:1]),
        decision=Decision(Outcome.NONE, metric=EXACT.name, rows=24),
        sentence="So far, with 2 of 4 trials unfinished: eval/exact_match is not known for every trial and baseline yet.",
        notes=(),
    )


def failed_verdict() -> Verdict:
    """Every trial has failed."""
    demo = demo_verdict()
    failure = Failure(FailureKind.OUT_OF_MEMORY, "8 GB needed", "Traceback (most recent call last):\n  MemoryError")
    return replace(
        demo,
        trials=tuple(
            trial(p.number, p.overrides, state=JobState.FAILED, failure=failure, last_step=3) for p in demo.points
        ),
        points=tuple(replace(p, estimates={}, against=(), is_tied=False, tied_p=None) for p in demo.points),
        decision=Decision(Outcome.NONE, metric=EXACT.name, rows=24),
        sentence="No trial has succeeded.",
        notes=(),
    )


def nothing_held_out_verdict() -> Verdict:
    """Two trials that succeeded, and nothing to compare them on."""
    trials = tuple(trial(n, {EPOCHS: n + 3}, {"train/epoch_mean_loss": 0.4 - 0.1 * n}) for n in range(2))
    return Verdict(
        sweeps=(sweep(),),
        trials=tuple(replace(each, record=replace(each.record, held_out={})) for each in trials),
        points=tuple(PointResult(n, {EPOCHS: n + 3}, (n,), {}, tokens=900 * (n + 3), rank=8) for n in range(2)),
        baselines=(),
        measures=(),
        decision=Decision(Outcome.NONE),
        sentence="Nothing was held out, so no trial can be preferred. Set dataset.validation.",
    )


def cannot_tell_verdict() -> Verdict:
    """The demo, where the examples in the prompt do as well as tuning."""
    demo = demo_verdict()
    points = tuple(
        replace(
            p,
            against=tuple(
                against(p.number, b, round(24 * p.estimates[EXACT.name].value), n)
                for b, n in (("base", 0), ("base+4", 14), ("majority", 1))
            ),
        )
        for p in demo.points
    )
    hardest = points[1].against[1]
    baselines = (demo.baselines[0], baseline("base+4", 14, range(4)), demo.baselines[2])
    return replace(
        demo,
        points=points,
        baselines=baselines,
        decision=replace(
            demo.decision,
            outcome=Outcome.CANNOT_TELL,
            advised=None,
            difference=hardest.value,
            low=hardest.low,
            high=hardest.high,
            p=hardest.p,
            rows_needed=540,
        ),
        sentence=(
            "No point can be distinguished from the base model with 4 examples in the prompt; about 540 rows would show it."
        ),
    )


def large_verdict(points: int = 200, rows: int = 500) -> Verdict:
    """Many points; the best is the third last, so that it is not among the first rows of a table."""
    grid: list[dict[str, Scalar]] = [
        {LEARNING_RATE: round(0.0001 * (1 + n // 20), 6), EPOCHS: 1 + n % 20} for n in range(points)
    ]
    rights = [100 + (37 * n) % 150 for n in range(points)]
    best = points - 3
    rights[best] = 300
    results = tuple(
        PointResult(
            n,
            overrides,
            (n,),
            {EXACT.name: share(right, rows), LOSS.name: Estimate(2.0 - right / 200)},
            (against(n, "base", right, 40, rows),),
            is_tied=n == best,
            tied_p=1.0 if n == best else 0.001,
            tokens=1000 * (1 + n % 20),
            rank=8,
        )
        for n, (overrides, right) in enumerate(zip(grid, rights, strict=True))
    )
    hardest = results[best].against[0]
    return Verdict(
        sweeps=(sweep("large"),),
        trials=tuple(
            trial(n, overrides, {EXACT.name: right / rows, LOSS.name: 2.0 - right / 200}, of=sweep("large"))
            for n, (overrides, right) in enumerate(zip(grid, rights, strict=True))
        ),
        points=results,
        baselines=(baseline("base", 40, range(points), rows),),
        measures=(EXACT, LOSS),
        decision=better_than(hardest, family=points, smallest_visible=0.11, rows=rows),
        sentence=f"Use point {best}: better than the base model.",
    )


def two_sweeps_verdict() -> Verdict:
    """The demo and a second sweep over the same rows; trials of the second have the same numbers as the first's."""
    demo = demo_verdict()
    second = sweep(short="feedbeef")
    overrides: dict[str, Scalar] = {LEARNING_RATE: 0.002, EPOCHS: 5}
    added = trial(0, overrides, {EXACT.name: 16 / 24, LOSS.name: 0.6}, point=4, of=second)
    point = PointResult(
        4,
        overrides,
        (4,),
        {EXACT.name: share(16), LOSS.name: Estimate(0.6)},
        (against(4, "base", 16, 0),),
        is_tied=True,
        tied_p=0.9,
        tokens=2715,
        rank=8,
    )
    return replace(
        demo,
        sweeps=(*demo.sweeps, second),
        trials=(*demo.trials, added),
        points=(*demo.points, point),
        decision=replace(demo.decision, tied=(0, 1, 2, 3, 4)),
    )
