"""Early stopping: a point that is decided to be worse than the best so far answers no more held-out rows.

The test is valid however often it is evaluated (`tunerun.statistics.anytime`), so it runs after every turn of
questions. It compares points: the mean over a point's trained seeds, on the rows that all of them have answered. Any
point may be the best so far that another is compared with, so the correction counts every pair of points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunerun.comparison.numbers import counted
from tunerun.errors import MetricError
from tunerun.job import JobState
from tunerun.ledger import Ledger, Stop
from tunerun.metrics import Metric
from tunerun.metrics.base import RANGES, FloatArray
from tunerun.planning import Plan, Trial
from tunerun.planning.measuring import stops_early
from tunerun.statistics.anytime import Decided, decided_worse, pairs, whole_clusters

TURN_ROWS = 16
"""Held-out rows that each model answers in a turn if trials may stop early. Our choice: one batch of the engine."""


@dataclass(frozen=True)
class _Group:
    """Points that are compared with each other: those with the same metric on the same held-out rows.

    Attributes:
        points: the trials of each point, by its number; trials with equal keys once.
    """

    metric: Metric
    alpha: float
    points: dict[int, list[Trial]]


@dataclass
class EarlyStops:
    """Decides which trials of a plan stop answering held-out rows.

    Attributes:
        plan: the plan that is run.
        ledger: open for writing; every stop is recorded in it.
        note: called with one line for each point that stops.
    """

    plan: Plan
    ledger: Ledger
    note: Callable[[str], None]
    _group_of: dict[int, _Group] = field(default_factory=dict)
    _scores: dict[str, FloatArray] = field(default_factory=dict)
    _points: dict[tuple[int, int], FloatArray | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups: dict[object, _Group] = {}
        for trial in self.plan.trials:
            evaluation = trial.config.evaluation
            metric = stops_early(evaluation) if trial.validation is not None else None
            if metric is None or trial.validation is None or trial.same_as is not None:
                continue
            rows = trial.validation.rows or trial.validation.digest
            group = groups.setdefault((rows, repr(metric)), _Group(metric, evaluation.alpha, {}))
            group.points.setdefault(trial.point, []).append(trial)
            self._group_of[trial.number] = group

    def concerns(self, trials: Sequence[Trial]) -> bool:
        """Return whether any of these trials may stop early."""
        return any(trial.number in self._group_of for trial in trials)

    def over(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that have stopped; a new decision is recorded in the ledger."""
        self._points.clear()  # there are new answers since the last call
        stopped = []
        for trial in trials:
            group = self._group_of.get(trial.number)
            if group is None:
                continue
            if self.ledger.stop(self.plan.sweep, _key(trial)) is not None:
                stopped.append(trial)
                continue
            decision = self._decided(group, trial.point)
            if decision is None:
                continue
            stopped.append(trial)
            decided, better = decision
            # All seeds of the point stop together. The answers so far are kept with the stop, because the decision was
            # made from them; a seed that has answered all rows has nothing to stop.
            for each in group.points[trial.point]:
                key = _key(each)
                texts = tuple(map(str, self.ledger.answers_so_far(*key)))
                if texts and self.ledger.answered_at(*key) is None:
                    stop = Stop(group.points[better][0].key, decided.e_value, decided.needed, texts)
                    self.ledger.record_stop(self.plan.sweep, key, stop)
            rows = counted(decided.units, "row" if not self._clusters(trial) else "cluster")
            self.note(
                f"point {trial.point} answers no more held-out rows: after {rows} it is decided to be worse than point "
                f"{better} (evaluation.stop_early)"
            )
        return stopped

    def _decided(self, group: _Group, number: int) -> tuple[Decided, int] | None:
        """The decision that a point is worse than the best so far, with the best point's number; None: undecided."""
        own = self._point(group, number)
        others = {n: scores for n in group.points if n != number and (scores := self._point(group, n)) is not None}
        if own is None or not others:
            return None
        best = max(others, key=lambda n: (float(others[n].mean()), len(others[n]), -n))
        rows = min(len(own), len(others[best]))
        differences = own[:rows] - others[best][:rows]
        # The test holds for differences in [-1, 1]; a user's own metric may exceed its unit's range.
        if not rows or float(np.abs(differences).max()) > 1:
            return None
        clusters = self._clusters(group.points[number][0])
        if clusters:  # rows of one cluster are not independent, so a cluster counts once it is complete
            differences = whole_clusters(differences, clusters, rows)
        if not len(differences):
            return None
        decided = decided_worse(differences, comparisons=pairs(len(group.points)), alpha=group.alpha)
        return None if decided is None else (decided, best)

    def _clusters(self, trial: Trial) -> tuple[int, ...]:
        clusters = trial.validation.clusters if trial.validation else ()
        return clusters if len(set(clusters)) < len(clusters) else ()

    def _point(self, group: _Group, number: int) -> FloatArray | None:
        """A point's scores by row, as shares of the metric's range, higher is better; None: not known yet."""
        place = id(group), number
        if place in self._points:
            return self._points[place]
        self._points[place] = None
        jobs = {trial.key: self.ledger.job(trial.key) for trial in group.points[number]}
        if any(job is None or not job.state.is_finished for job in jobs.values()):
            return None  # a seed that is still training would change the mean
        trained = [t for t in group.points[number] if (j := jobs[t.key]) is not None and j.state is JobState.SUCCEEDED]
        tables = [self._table(group.metric, trial) for trial in trained]
        rows = min((len(table) for table in tables), default=0)
        if rows:
            mean: FloatArray = np.mean([table[:rows] for table in tables], axis=0)
            self._points[place] = mean if group.metric.higher_is_better else -mean
        return self._points[place]

    def _table(self, metric: Metric, trial: Trial) -> FloatArray:
        """Scores of the rows that a trial has answered; only new answers are scored."""
        assert trial.validation is not None  # noqa: S101 - otherwise it would not be in a group
        key = _key(trial)
        scored = self._scores.get(trial.key, np.zeros(0))
        if len(scored) == len(trial.validation.examples):
            return scored
        whole = self.ledger.answers(*key)
        texts = list(whole.texts) if whole is not None else list(map(str, self.ledger.answers_so_far(*key)))
        if len(texts) > len(scored):
            expected = [example.output for example in trial.validation.examples[len(scored) : len(texts)]]
            try:
                scores = metric.rows(expected, texts[len(scored) :])[:, 0] / RANGES[metric.unit]
            except MetricError:  # the comparison reports it
                return np.zeros(0)
            self._scores[trial.key] = np.concatenate([scored, scores])
        return self._scores.get(trial.key, scored)


def _key(trial: Trial) -> tuple[str, str, str]:
    """The key under which the ledger stores a trial's answers to the validation set."""
    return trial.key, trial.validation.digest if trial.validation else "", trial.answer_method
