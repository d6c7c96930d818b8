"""What MLflow should show of a sweep as a whole: baselines, a run with the verdict, the experiment's note and view."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from tunerun.comparison import judge
from tunerun.comparison.knowledge import BASE_LOSS
from tunerun.comparison.renderers.note import escaped
from tunerun.comparison.renderers.plots import FILE as PLOT
from tunerun.comparison.renderers.plots import files as plots
from tunerun.comparison.renderers.report import FILE as REPORT
from tunerun.comparison.renderers.report import page
from tunerun.comparison.results import LOSS, BaselineResult, TrialResult, Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.digest import digest
from tunerun.job import JobState
from tunerun.ledger import Ledger, Mark, SweepRecord, TrialProgress, TrialRecord
from tunerun.ledger.portable import plan_files, results_file
from tunerun.stored import section
from tunerun.tracking.answers import FILES, VALIDATION, ScoredAnswers, answered
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
    Input,
    Pages,
    RunKind,
    RunPart,
    RunProjection,
    RunState,
    SingleMetric,
    Standing,
    WrittenFiles,
    dataset_input,
    milliseconds,
    table_tag,
)
from tunerun.tracking.trial import INTERRUPTED, measured, override_lines, rerun_lines
from tunerun.tracking.view import view_tags

_SENTENCE, _NOTE, _REPORT = "sentence", "note", "report"
TRIALS_FILE = "trials.json"
_MAX_NAMED = 40
"""Trials that a baseline's description names."""


class Summary:
    """What the runs of a sweep as a whole depend on, and what they should look like.

    Args:
        pages: where MLflow shows the sweep's runs.
        is_run: whether a process runs the sweep now; without one what is not finished was interrupted.

    Attributes:
        seen: a digest of everything in the ledger that they depend on.
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
        self._results = self._found()
        self.seen = digest([LAYOUT, *self._results, self._is_run])

    def _found(self) -> list[Any]:
        answers = sorted(self._ledger.answered(self._sweep.id))
        openings = [opening.opened_at for opening in self._ledger.openings(self._sweep.id)]
        trials = [asdict(p) | {"last_step": 0 if not p.state.is_finished else p.last_step} for p in self._progress]
        return [trials, answers, openings]

    def images(self, others: Sequence[SweepLine]) -> list[RunProjection]:
        """The runs of the baselines that are known, and last the run of the sweep itself.

        Args:
            others: what the experiment's note says of its other sweeps.

        Raises:
            ConfigError: the metric that decides is not known to this version.
        """
        verdict = judge(self._ledger, self._sweep.record)
        baselines = [
            _baseline_image(self._ledger, self._sweep, b, [verdict.trials[t].record for t in b.trials], self.seen)
            for b in verdict.baselines
            if b.estimates
        ]
        return [*baselines, self._own(verdict, others)]

    def _own(self, verdict: Verdict, others: Sequence[SweepLine]) -> RunProjection:
        sweep, table = self._sweep, ComparisonTable.of(verdict)
        artifacts = self._frozen_files() | {TRIALS_FILE: RunPart(self.seen, lambda: _trials_table(sweep, verdict))}
        if verdict.is_complete and any(p.last_step for p in self._progress):
            artifacts[PLOT] = RunPart(self.seen, lambda: plots(table, self._ledger)[PLOT])
        has_report = verdict.is_complete and not self._is_run
        if has_report:  # it reads every answer: once, when all is there
            artifacts[REPORT] = RunPart(self.seen, lambda: page(table, self._ledger))
        curves = self._curves(verdict)
        note = self._with_origin(sweep_note(table, self._sweep.record.command if self._is_interrupted else None))

        def experiment_tags(experiment_id: str, run_id: str) -> Mapping[str, str]:
            own = SweepLine(sweep.id, sweep.record.created_at, verdict.sentence, note, run_id, has_report)
            lines = sorted([own, *others], key=lambda line: line.created_at, reverse=True)
            return {
                **view_tags(sweep, verdict, curves),
                NOTE_TAG: experiment_note(experiment_id, lines),
            }

        return replace(
            self._bare(self.seen),
            state=RunState.KILLED if self._is_interrupted else _state(verdict),
            end_ms=self._end_ms() if verdict.is_complete or self._is_interrupted else None,
            tags=self._tags(verdict, note),
            measures=self._best_measures(verdict),
            artifacts=artifacts,
            remembered={
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

        Its `seen` differs from the ledger's state, so that the verdict is tried again.
        """
        note = f"There is no verdict: {escaped(problem)}"
        image = self._bare(digest([self.seen, problem]))
        return replace(
            image,
            state=RunState.KILLED if self._is_interrupted else RunState.RUNNING if self._is_run else RunState.FINISHED,
            end_ms=None if self._is_run else self._end_ms(),
            tags=self._sweep.code_tags() | {NOTE_TAG: self._with_origin(note)},
        )

    def _bare(self, seen: str) -> RunProjection:
        """What the run of the sweep itself has by its plan alone."""
        sweep = self._sweep
        return RunProjection(
            subject=sweep.subject(RunKind.SWEEP),
            kind=RunKind.SWEEP,
            identity=sweep.identity(RunKind.SWEEP),
            seen=seen,
            name=_sweep_name(sweep),
            start_ms=milliseconds(sweep.record.created_at),
            state=RunState.SCHEDULED,
            end_ms=None,
            tags={},
            params=RunPart(
                ONCE, lambda: {"trials": str(len(sweep.trials)), "varied": " ".join(sweep.varied)[:250] or "nothing"}
            ),
            artifacts=self._frozen_files(),
            written=self._record(),
        )

    def _frozen_files(self) -> dict[str, RunPart[Content]]:
        """What people read on the page of what the plan says; all of it is in the record."""
        diff = str(section(self._sweep.record.document, "code").get("diff", ""))
        return {"code.diff": RunPart(ONCE, lambda: diff)} if diff else {}

    def _record(self) -> dict[str, WrittenFiles]:
        """What was settled before the first job is sent with the run; what came out, when nothing runs the sweep."""
        ledger, sweep = self._ledger, self._sweep.record
        files = {"record": WrittenFiles(ONCE, lambda folder: plan_files(ledger, sweep, folder / RECORD))}
        if not self._is_run:
            files["results"] = WrittenFiles(
                digest([LAYOUT, *self._results]), lambda folder: results_file(ledger, sweep, folder / RECORD)
            )
        return files

    def _with_origin(self, note: str) -> str:
        return "\n".join([note, "", *rerun_lines(self._sweep, self._pages)]).strip()

    def _curves(self, verdict: Verdict) -> list[list[str]]:
        """The curves that some trial has, by the chart that shows them together."""
        if not any(trial.last_step for trial in verdict.trials):
            return []
        held_out = [VALIDATION_EPOCH_LOSS] if self._ledger.validation_curves(self._sweep.id) else []
        return [[EPOCH_LOSS, *held_out], [STEP_LOSS]]

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
        best = _best(verdict)
        if best is not None and best.tuned_model is not None:
            tags["tunerun.tuned_model"] = best.tuned_model.name
        return tags

    def _best_measures(self, verdict: Verdict) -> list[SingleMetric]:
        """The deciding metric of the advised point's first trial, once all of the sweep is done.

        Under a name of its own, so that the trials' bars stay as they are.
        """
        best, metric = _best(verdict), verdict.metric
        if best is None or metric is None or metric not in best.metrics or not verdict.is_complete:
            return []
        return [SingleMetric(verdict_key(metric), best.metrics[metric], self._end_ms())]


def line_of(sweep: SweepRecord, mark: Mark) -> SweepLine | None:
    """What an experiment's note says of a sweep, by the sweep's mark; None: nothing was said of it yet."""
    sentence = mark.document.get(_SENTENCE)
    if sentence is None:
        return None
    note = mark.document.get(_NOTE, "")
    return SweepLine(sweep.id, sweep.created_at, sentence, note, mark.run_id, bool(mark.document.get(_REPORT)))


def _standings(sweep: FrozenSweep, verdict: Verdict) -> dict[str, list[Any]]:
    """By the trial's number, as a JSON object has it."""
    found: dict[str, list[Any]] = {}
    for point in verdict.points:
        members = [verdict.trials[position].record for position in point.trials]
        first = members[0]
        name = point_name(point.number, len(verdict.points), sweep.varied, first.overrides, first.config)
        standing = Standing(name, point.number == verdict.decision.advised, point.is_tied)
        found |= {str(member.number): list(asdict(standing).values()) for member in members}
    return found


# Baselines


def _baseline_image(
    ledger: Ledger, sweep: FrozenSweep, baseline: BaselineResult, members: Sequence[TrialRecord], seen: str
) -> RunProjection:
    first = members[0]
    held_out = _held_out(sweep, first)
    answers = _answered(ledger, sweep, baseline.subject, members)
    measures = _base_loss(ledger, members, held_out) if LOSS in baseline.estimates else []
    measures += [measure for each in answers for measure in each.measures()]
    start_ms = milliseconds(sweep.record.created_at)
    trials = ", ".join(str(m.number) for m in members[:_MAX_NAMED])
    return RunProjection(
        subject=sweep.subject(RunKind.BASELINE, baseline.subject),
        kind=RunKind.BASELINE,
        identity=sweep.identity(RunKind.BASELINE, key=baseline.subject),
        seen=seen,
        name=baseline.name,
        start_ms=start_ms,
        state=RunState.FINISHED,
        end_ms=max([start_ms, *(measure.time_ms for measure in measures)]),
        tags=sweep.code_tags()
        | table_tag(*(each.file for each in answers))
        | {"tunerun.point": baseline.name}
        | {
            "tunerun.backend": first.settings.backend.get("kind", ""),
            NOTE_TAG: f"**{escaped(baseline.name)}**: {escaped(baseline.words or baseline.name)}, without tuning. "
            f"What trials {trials} of sweep `{sweep.id}` have to beat.",
        },
        params=RunPart(ONCE, lambda: _baseline_params(baseline, first)),
        measures=measures,
        inputs=None if held_out is None else RunPart(ONCE, lambda: [held_out]),
        artifacts={each.file: each.table for each in answers},
    )


def _answered(ledger: Ledger, sweep: FrozenSweep, subject: str, members: Sequence[TrialRecord]) -> list[ScoredAnswers]:
    """The baseline's answers to each held-out set, as they were asked for any of the trials that it belongs to."""
    asked = {(held_out, trial.held_out.get(held_out), trial.asked): trial for trial in members for held_out in FILES}
    found = {}
    for (held_out, *_), trial in asked.items():
        if held_out not in found and (each := answered(ledger, sweep, subject, trial, held_out)) is not None:
            found[held_out] = each
    return list(found.values())


def _baseline_params(baseline: BaselineResult, trial: TrialRecord) -> dict[str, str]:
    return {
        "model": baseline.model,
        "template": str(trial.overrides.get("template") or digest(trial.settings.template.document)[:8]),
        "backend": trial.settings.backend.get("kind", ""),
    }


def _held_out(sweep: FrozenSweep, trial: TrialRecord) -> Input | None:
    return None if trial.validation is None else dataset_input(sweep.examples(trial.validation), VALIDATION)


def _base_loss(ledger: Ledger, members: Sequence[TrialRecord], on: Input | None) -> list[SingleMetric]:
    """The base model's own loss, as the first job that was done measured it: that never changes any more."""
    keys = dict.fromkeys(member.key for member in members)
    found = [
        (job.finished_at, job.id, job.metrics[BASE_LOSS])
        for key in keys
        for job in ledger.jobs(key)
        if BASE_LOSS in job.metrics and job.finished_at is not None
    ]
    if not found:
        return []
    finished_at, _, loss = min(found)
    return measured({LOSS: loss}, finished_at, on)


# The sweep


def _sweep_name(sweep: FrozenSweep) -> str:
    """The id without the experiment's name, under which the run is shown anyway: the page shows 20 characters."""
    return f"sweep {sweep.id.removeprefix(sweep.record.experiment + '-')}"


def _best(verdict: Verdict) -> TrialResult | None:
    return None if verdict.best is None else verdict.trials[verdict.best]


def _state(verdict: Verdict) -> RunState:
    """The state of a sweep that is run or complete: SCHEDULED as long as no job of it is live."""
    states = {trial.state for trial in verdict.trials}
    if verdict.is_complete:
        return RunState.FINISHED if JobState.SUCCEEDED in states else RunState.FAILED
    live = states & {JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING}
    return RunState.RUNNING if live else RunState.SCHEDULED


def verdict_key(metric: str) -> str:
    """The metric of a sweep's own run, such as `verdict/exact_match`: its chart of one bar comes last on the page."""
    return f"verdict/{metric.partition('/')[2].replace('/', '_')}"


def _metrics_shown(verdict: Verdict) -> list[str]:
    names = {name for trial in verdict.trials for name in trial.metrics}
    first = [verdict.metric] if verdict.metric else []
    return [*first, *sorted(names - set(first))]


def _name(sweep: FrozenSweep, trial: TrialResult) -> str:
    record = trial.record
    return run_name(record.number, len(sweep.trials), sweep.varied, record.overrides, record.config)


def _trials_table(sweep: FrozenSweep, verdict: Verdict) -> str:
    metrics = _metrics_shown(verdict)
    columns = ["run", "state", *metrics, "tuned_model", "overrides", "advice"]
    rows = [
        [
            _name(sweep, trial),
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
