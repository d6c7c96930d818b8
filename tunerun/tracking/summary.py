"""What MLflow should show of a sweep as a whole: a run with the verdict, the experiment's note and view."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tunerun.comparison import judge
from tunerun.comparison.renderers.note import escaped
from tunerun.comparison.renderers.plots import FILE as PLOT
from tunerun.comparison.renderers.plots import files as plots
from tunerun.comparison.renderers.report import FILE as REPORT
from tunerun.comparison.renderers.report import page
from tunerun.comparison.results import Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.digest import digest
from tunerun.job import JobState
from tunerun.ledger import Ledger, Mark, SweepRecord, TrialProgress
from tunerun.ledger.portable import plan_files, results_file
from tunerun.ledger.subjects import RunKind, subject_of_sweep
from tunerun.stored import section
from tunerun.tracking.baseline import baseline_projection
from tunerun.tracking.naming import point_name, run_name
from tunerun.tracking.note import SweepLine, experiment_note, sweep_note
from tunerun.tracking.run_projection import (
    EPOCH_LOSS,
    LAYOUT,
    NOTE_TAG,
    ONCE,
    RECORD,
    RERUN_OF_TAG,
    STANDINGS,
    STEP_LOSS,
    VALIDATION_EPOCH_LOSS,
    VIEW,
    Content,
    FrozenSweep,
    LargeFiles,
    Pages,
    RunPart,
    RunProjection,
    RunState,
    SingleMetric,
    Standing,
    milliseconds,
    table_tag,
)
from tunerun.tracking.trial import INTERRUPTED, override_lines, rerun_lines
from tunerun.tracking.view import view_tags

_SENTENCE, _NOTE, _REPORT = "sentence", "note", "report"
TRIALS_FILE = "trials.json"


class Summary:
    """What the runs of a sweep as a whole depend on, and what they should look like.

    Args:
        ledger: the truth.
        sweep: its plan.
        progress: of its trials, by number.
        pages: where MLflow shows the sweep's runs.
        is_run: whether a process runs the sweep now; without one what is not finished was interrupted.

    Attributes:
        ledger_digest: of everything in the ledger that they depend on.
    """

    def __init__(
        self, ledger: Ledger, sweep: FrozenSweep, progress: Sequence[TrialProgress], pages: Pages, *, is_run: bool
    ) -> None:
        self._ledger = ledger
        self._sweep = sweep
        self._pages = pages
        self._progress = progress
        self._is_run = is_run
        self._is_interrupted = not is_run and not all(p.state.is_finished for p in progress)
        # Without the steps of jobs under way: otherwise each poll would bring a new verdict over all trials.
        trials = [asdict(p) | {"last_step": p.last_step if p.state.is_finished else 0} for p in progress]
        openings = [opening.opened_at for opening in ledger.openings(sweep.id)]
        self._results: list[Any] = [trials, sorted(ledger.answered(sweep.id)), openings]
        self.ledger_digest = digest([LAYOUT, *self._results, is_run])

    def projections(self, others: Sequence[SweepLine]) -> list[RunProjection]:
        """Return the runs of the baselines with results, and last the run of the sweep itself.

        Args:
            others: what the experiment's note says of its other sweeps.

        Raises:
            ConfigError: this version does not have the metric that decides.
        """
        verdict = judge(self._ledger, self._sweep.record)
        baselines = [
            baseline_projection(
                self._ledger,
                self._sweep,
                baseline,
                [verdict.trials[number].record for number in baseline.trials],
                self.ledger_digest,
            )
            for baseline in verdict.baselines
            if baseline.estimates
        ]
        return [*baselines, self._with_verdict(verdict, others)]

    def _with_verdict(self, verdict: Verdict, others: Sequence[SweepLine]) -> RunProjection:
        ledger, sweep, version, table = self._ledger, self._sweep, self.ledger_digest, ComparisonTable.of(verdict)
        artifacts = self._code_diff() | {TRIALS_FILE: RunPart(version, lambda: _trials_table(sweep, verdict))}
        if verdict.is_complete and any(p.last_step for p in self._progress):
            artifacts[PLOT] = RunPart(version, lambda: plots(table, ledger)[PLOT])
        has_report = verdict.is_complete and not self._is_run
        if has_report:  # it reads every answer: once, when all is there
            artifacts[REPORT] = RunPart(version, lambda: page(table, ledger))
        curves: list[list[str]] = []  # by the chart that shows them together
        if any(trial.last_step for trial in verdict.trials):
            held_out = [VALIDATION_EPOCH_LOSS] if ledger.validation_curves(sweep.id) else []
            curves = [[EPOCH_LOSS, *held_out], [STEP_LOSS]]
        note = self._with_origin(sweep_note(table, sweep.record.command if self._is_interrupted else None))

        def experiment_tags(experiment_id: str, run_id: str) -> Mapping[str, str]:
            own = SweepLine(sweep.id, sweep.record.created_at, verdict.sentence, note, run_id, has_report)
            lines = sorted([own, *others], key=lambda line: line.created_at, reverse=True)
            return {**view_tags(sweep, verdict, curves), NOTE_TAG: experiment_note(experiment_id, lines)}

        # The deciding metric of the advised point's first trial, once all of the sweep is done; under a name of its
        # own, so that the trials' bars stay as they are.
        best = None if verdict.best is None else verdict.trials[verdict.best]
        measures, metric = [], verdict.metric
        if best is not None and metric is not None and metric in best.metrics and verdict.is_complete:
            measures = [SingleMetric(verdict_key(metric), best.metrics[metric], self._end_ms())]
        return replace(
            self._from_plan(version),
            state=self._state(verdict),
            end_ms=self._end_ms() if verdict.is_complete or self._is_interrupted else None,
            tags=self._tags(verdict, note),
            measures=measures,
            artifacts=artifacts,
            mark_values={
                STANDINGS: _standings(sweep, verdict),
                _SENTENCE: verdict.sentence,
                _NOTE: note,
                VIEW: sweep.id,
                _REPORT: has_report,
            },
            experiment_tags=experiment_tags,
        )

    def without_verdict(self, problem: str) -> RunProjection:
        """Return the sweep's own run when no verdict can be made: its record, and the reason.

        Its digest differs from the ledger's, so that the verdict is tried again.
        """
        note = f"There is no verdict: {escaped(problem)}"
        return replace(
            self._from_plan(digest([self.ledger_digest, problem])),
            state=RunState.KILLED if self._is_interrupted else RunState.RUNNING if self._is_run else RunState.FINISHED,
            end_ms=None if self._is_run else self._end_ms(),
            tags=self._sweep.code_tags() | {NOTE_TAG: self._with_origin(note)},
        )

    def _from_plan(self, ledger_digest: str) -> RunProjection:
        """Return what the run of the sweep itself has by its plan alone."""
        ledger, sweep, record = self._ledger, self._sweep, self._sweep.record
        # What was settled before the first job is sent with the run; the results, when no process runs the sweep.
        files = {"record": LargeFiles(ONCE, lambda folder: plan_files(ledger, record, folder / RECORD))}
        if not self._is_run:
            files["results"] = LargeFiles(
                digest([LAYOUT, *self._results]), lambda folder: results_file(ledger, record, folder / RECORD)
            )
        return RunProjection(
            subject=subject_of_sweep(sweep.id),
            identity=sweep.identity(RunKind.SWEEP),
            ledger_digest=ledger_digest,
            # Without the experiment's name, under which the run is shown anyway: the page shows 20 characters.
            name=f"sweep {sweep.id.removeprefix(record.experiment + '-')}",
            start_ms=milliseconds(sweep.record.created_at),
            state=RunState.SCHEDULED,
            end_ms=None,
            tags={},
            params=RunPart(
                ONCE, lambda: {"trials": str(len(sweep.trials)), "varied": " ".join(sweep.varied)[:250] or "nothing"}
            ),
            artifacts=self._code_diff(),
            large_files=files,
        )

    def _code_diff(self) -> dict[str, RunPart[Content]]:
        """What the user's code differed from its commit by: in the record too, but people read it on the page."""
        diff = str(section(self._sweep.record.document, "code").get("diff", ""))
        return {"code.diff": RunPart(ONCE, lambda: diff)} if diff else {}

    def _with_origin(self, note: str) -> str:
        return "\n".join([note, "", *rerun_lines(self._sweep, self._pages)]).strip()

    def _state(self, verdict: Verdict) -> RunState:
        """SCHEDULED until a first job is live; FINISHED when one of them succeeded."""
        states = {trial.state for trial in verdict.trials}
        if self._is_interrupted:
            return RunState.KILLED
        if verdict.is_complete:
            return RunState.FINISHED if JobState.SUCCEEDED in states else RunState.FAILED
        live = states & {JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING}
        return RunState.RUNNING if live else RunState.SCHEDULED

    def _end_ms(self) -> int:
        times = [t for p in self._progress for t in (p.finished_at, p.evaluated_at) if t is not None]
        return milliseconds(max([self._sweep.record.created_at, *times]))

    def _tags(self, verdict: Verdict, note: str) -> dict[str, str]:
        counts = Counter(trial.state for trial in verdict.trials)
        decision = verdict.decision
        tags = self._sweep.code_tags() | table_tag(TRIALS_FILE)
        tags |= {
            "tunerun.state": f"{INTERRUPTED}: " * self._is_interrupted
            + ", ".join(f"{n} {state}" for state, n in counts.items()),
            "tunerun.best": "none" if verdict.best is None else str(verdict.best),
            "tunerun.outcome": str(decision.outcome),
            "tunerun.point": "sweep",
            "tunerun.advised": "none" if decision.advised is None else f"point {decision.advised}",
            "tunerun.tied": ", ".join(map(str, decision.tied)),
            NOTE_TAG: note,
        }
        if self._sweep.rerun_of:
            tags[RERUN_OF_TAG] = self._sweep.rerun_of
        best = None if verdict.best is None else verdict.trials[verdict.best].tuned_model
        if best is not None:
            tags["tunerun.tuned_model"] = best.name
        return tags


def line_of(sweep: SweepRecord, mark: Mark) -> SweepLine | None:
    """Return the line of a sweep in its experiment's note, from the sweep's mark; None: the sweep has no verdict yet.

    Args:
        sweep: its record.
        mark: of its own run.
    """
    sentence = mark.document.get(_SENTENCE)
    if sentence is None:
        return None
    note = mark.document.get(_NOTE, "")
    return SweepLine(sweep.id, sweep.created_at, sentence, note, mark.run_id, bool(mark.document.get(_REPORT)))


def _standings(sweep: FrozenSweep, verdict: Verdict) -> dict[str, list[Any]]:
    """Return the fields of each trial's `Standing`, by the trial's number as text, as a JSON object has its keys."""
    standings: dict[str, list[Any]] = {}
    for point in verdict.points:
        members = [verdict.trials[position].record for position in point.trials]
        first = members[0]
        name = point_name(point.number, len(verdict.points), sweep.varied, first.overrides, first.config)
        standing = Standing(name, point.number == verdict.decision.advised, point.is_tied)
        standings |= {str(member.number): list(asdict(standing).values()) for member in members}
    return standings


def verdict_key(metric: str) -> str:
    """Return the name of the deciding metric on a sweep's own run, such as `verdict/exact_match`."""
    # MLflow groups charts by what is before the slash, in the order of the alphabet: this one, of one bar, comes last.
    return f"verdict/{metric.partition('/')[2].replace('/', '_')}"


def _trials_table(sweep: FrozenSweep, verdict: Verdict) -> str:
    """Return all trials and baselines as the JSON of a table, in the form that MLflow's page shows."""
    first = [verdict.metric] if verdict.metric else []
    metrics = [*first, *sorted({name for trial in verdict.trials for name in trial.metrics} - set(first))]
    columns = ["run", "state", *metrics, "tuned_model", "overrides", "advice"]
    rows = [
        [
            run_name(trial.record.number, len(sweep.trials), sweep.varied, trial.record.overrides, trial.record.config),
            trial.state,
            *(trial.metrics.get(metric) for metric in metrics),
            trial.tuned_model.name if trial.tuned_model else None,
            " ".join(override_lines(sweep, trial.record)),
            trial.advice.text if trial.advice else None,
        ]
        for trial in verdict.trials
    ]
    rows += [[b.name, "", *(b.metrics.get(m) for m in metrics), None, "", None] for b in verdict.baselines]
    return json.dumps({"columns": columns, "data": rows}, ensure_ascii=False)
