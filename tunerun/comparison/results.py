"""The results of a comparison as plain values; renderers read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tunerun.comparison.curves import Advice
from tunerun.job import Failure, JobState, Scalar, TrainedOn, TunedModel
from tunerun.ledger import SweepRecord, TrialRecord
from tunerun.metrics import Unit

LOSS = "validation/loss"
STEP_LOSS = "train/mean_loss"
EPOCH_LOSS = "train/epoch_mean_loss"
"""Names of measures that a backend reports, as MLflow shows them; in nats per output token."""


class Outcome(StrEnum):
    """The outcome of a comparison with a baseline; `NONE`: there was nothing to compare."""

    # "Not significantly better" has two meanings that need two words: too few rows, and no difference worth having.
    BETTER = "better"
    EQUIVALENT = "equivalent"
    CANNOT_TELL = "cannot_tell"
    WORSE = "worse"
    NONE = "none"


@dataclass(frozen=True)
class Measure:
    """A column of measures: the name that MLflow shows, its unit and its direction."""

    name: str
    unit: Unit
    higher_is_better: bool


@dataclass(frozen=True)
class Estimate:
    """A measure of one arm on the held-out rows, averaged over its seeds.

    Attributes:
        low, high: the interval at 1 - alpha for this arm alone; None: the measure has none.
        spread: standard deviation over the seeds; None with one seed.
        seeds: how many trials it is the mean of.
        rows: how many held-out rows it is of; None: all.
    """

    # Two arms are not compared by these intervals: on the same rows they may differ clearly although the intervals
    # overlap. A `Difference` is for that.
    value: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    seeds: int = 1
    rows: int | None = None


@dataclass(frozen=True)
class Stopped:
    """A point that was decided to be worse than another before it had answered all held-out rows.

    Attributes:
        rows: number of rows that all of its trials have answered. of: number of all rows.
        worse_than: the number of the other point; None: it is not among those that are compared here.
        e_value: the evidence; needed: the limit that it reached (`tunerun.statistics.anytime`).
    """

    rows: int
    of: int
    worse_than: int | None
    e_value: float
    needed: float

    @property
    def words(self) -> str:
        """What happened, as in `32 of 100 rows, worse than point 0`."""
        better = "another point" if self.worse_than is None else f"point {self.worse_than}"
        return f"{self.rows:,} of {self.of:,} rows, worse than {better}"


@dataclass(frozen=True)
class Difference:
    """A point against a baseline by the measure that decides.

    Attributes:
        value: point minus baseline, also where less is better.
        low, high: the interval at the family's critical value.
        p: two-sided, corrected for the family. holm_p: with Holm's correction, which a reader can check by hand.
        wins, losses: rows that only the point or only the baseline has right; None where scores are not 0 or 1.
    """

    point: int
    baseline: str
    value: float
    low: float
    high: float
    p: float
    holm_p: float
    outcome: Outcome
    wins: int | None = None
    losses: int | None = None


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        point: the number of its point.
        state: of its last job; PLANNED where there is none yet.
        metrics: by the names and with the values that MLflow shows last: `train/mean_loss` (of the last step) and
            `train/epoch_mean_loss` (mean over the steps of the last whole epoch), both in nats per output token, what
            the backend measured, and the evaluation's `eval/...`; only those that are known.
        advice: what its loss curves say; None until it has succeeded.
        last_step: how far its loss curve is.
        trained_on: what trained its last job; None: a service did, or it has not begun.
        is_stopped: whether its point was decided to be worse, so that it has not answered all held-out rows.
    """

    record: TrialRecord
    state: JobState
    metrics: Mapping[str, float]
    tuned_model: TunedModel | None
    failure: Failure | None
    advice: Advice | None
    last_step: int = 0
    point: int = 0
    sweep: str = ""
    trained_on: TrainedOn | None = None
    is_stopped: bool = False


@dataclass(frozen=True)
class PointResult:
    """The result of the trials of one point together.

    Attributes:
        number: from 0, in the order of the first trials.
        overrides: what the sweep sets for it, without its seeds.
        trials: numbers of its trials in `Verdict.trials`' order.
        estimates: by the name of the measure.
        against: its comparison with every baseline, by the measure that decides.
        is_tied: whether it belongs to the tied set, not distinguishable from the best point; tied_p: the p value.
        consistency: share of rows with the same answer over all seeds; None with one seed.
        tokens: training tokens of its first trial, all epochs. rank: of its adapter.
        answer_length: characters of its answers, on average; None: it has none.
        stopped: why it has not answered all held-out rows, and so is neither compared nor advised; None: it has.
    """

    number: int
    overrides: Mapping[str, Scalar]
    trials: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    against: tuple[Difference, ...] = ()
    is_tied: bool = False
    tied_p: float | None = None
    consistency: float | None = None
    tokens: int = 0
    rank: int = 0
    answer_length: float | None = None
    stopped: Stopped | None = None


@dataclass(frozen=True)
class BaselineResult:
    """What a model without tuning reaches on the same held-out examples.

    Attributes:
        name: `base`, `base+4` (four training examples before the question, as turns), `base+4 text`, `majority`;
            with `-0`, `-1` behind it where the sweep has several base models or templates.
        subject: the key of its answers in the ledger.
        model: name of the base model; empty for the majority answer.
        trials: numbers of the trials that it belongs to.
        words: what a sentence calls it, such as `the base model with 4 examples in the prompt`.
        problem: why it is not measured; None: it is, or will be.
    """

    name: str
    subject: str
    model: str
    trials: tuple[int, ...]
    estimates: Mapping[str, Estimate]
    problem: str | None = None
    words: str = ""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The values of all measures, by name."""
        return {name: estimate.value for name, estimate in self.estimates.items()}


@dataclass(frozen=True)
class Decision:
    """The decision, as far as the statistics support one.

    Attributes:
        advised: number of the point to use; None: none can be advised.
        tied: numbers of the points in the tied set, the advised one included.
        about: the point that the difference is of: the advised one, else the best; None: nothing was compared.
        against: name of the baseline that is hardest to beat.
        difference, low, high, p: of that point against it; point minus baseline, also where less is better.
        family: how many comparisons p is corrected for: compared points times baselines.
        smallest_visible: the smallest difference that these rows show with a power of 80 %; None: they show none.
        rows: held-out rows. clusters: what is flipped in their place; None: the rows themselves.
        rows_needed: number of rows that would show the observed difference; None: it was shown, or no number would.
        corrected, corrected_low, corrected_high: the best point's own value without the luck of having been chosen.
        seeds: how many `about` has; with one, the claim is about this trained model and not about its settings.
        smallest_p: the smallest that p could have become on these rows; above alpha nothing could be decided.
        few_rows_decide: whether fewer than five rows carry half of the (squared) difference.
        nothing_right: whether every answer of every point and baseline is scored 0.
        rows_for_equality: rows below which "equal within `worth`" is out of reach; None: `worth` is 0.
    """

    outcome: Outcome
    advised: int | None = None
    tied: tuple[int, ...] = ()
    against: str | None = None
    metric: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    alpha: float = 0.05
    worth: float = 0.0
    family: int = 0
    smallest_visible: float | None = None
    rows: int = 0
    clusters: int | None = None
    rows_needed: int | None = None
    corrected: float | None = None
    corrected_low: float | None = None
    corrected_high: float | None = None
    about: int | None = None
    seeds: int = 1
    smallest_p: float = 0.0
    few_rows_decide: bool = False
    nothing_right: bool = False
    rows_for_equality: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Which point to use, or why none can be advised.

    Attributes:
        sweeps: what was compared, the sweep itself first.
        held_out: which of the held-out sets: `validation` or `test`.
        measures: the columns, the one that decides first.
        sentence: the verdict in words. notes: what a reader needs to know to judge it, one sentence each.
    """

    # `trials` is indexed by place: with several sweeps their own numbers repeat.
    sweeps: tuple[SweepRecord, ...]
    trials: tuple[TrialResult, ...]
    points: tuple[PointResult, ...]
    baselines: tuple[BaselineResult, ...]
    measures: tuple[Measure, ...]
    decision: Decision
    sentence: str
    held_out: str = "validation"
    notes: tuple[str, ...] = field(default=())

    @property
    def sweep(self) -> SweepRecord:
        """The sweep, or the first of several."""
        return self.sweeps[0]

    @property
    def metric(self) -> str | None:
        """The measure that decides; None where nothing was held out."""
        return self.decision.metric

    @property
    def best(self) -> int | None:
        """The advised point's first trial that has succeeded, by its place; None: no point can be advised."""
        if self.decision.advised is None:
            return None
        # A point is advised by all of its seeds together, but one trained model has to be named.
        places = self.points[self.decision.advised].trials
        return next((place for place in places if self.trials[place].state is JobState.SUCCEEDED), places[0])

    def __repr__(self) -> str:
        ids = ", ".join(sweep.id for sweep in self.sweeps)
        advised = "none advised" if self.decision.advised is None else f"point {self.decision.advised} advised"
        return f"<Verdict {ids}: {len(self.points)} points, {self.decision.outcome}, {advised}>"

    @property
    def is_complete(self) -> bool:
        """Whether every trial is finished."""
        return all(trial.state.is_finished for trial in self.trials)

    @property
    def is_measured(self) -> bool:
        """Whether every trial that succeeded has the measure that decides, if that measure needs answers."""
        metric = self.metric
        # A loss comes with the job, and the test set is opened for one point alone: there is nothing left to ask.
        if metric is None or metric == LOSS or self.held_out != "validation":
            return True
        return all(
            metric in trial.metrics or trial.is_stopped for trial in self.trials if trial.state is JobState.SUCCEEDED
        )

    @property
    def ranked(self) -> list[TrialResult]:
        """The trials, the advised point's first, then by the measure that decides; those without a value last."""
        sign = -1.0 if self.measures and self.measures[0].higher_is_better else 1.0

        def rank(trial: TrialResult) -> tuple[bool, bool, float, int]:
            value = trial.metrics.get(self.metric) if self.metric is not None else None
            is_measured = trial.state is JobState.SUCCEEDED and value is not None
            merit = 0.0 if value is None else sign * value
            # A point is advised for its price too, so a trial with a higher value may come after its trials.
            return not is_measured, trial.point != self.decision.advised, merit, trial.record.number

        return sorted(self.trials, key=rank)
