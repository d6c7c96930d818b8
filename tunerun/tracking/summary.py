"""What MLflow should show of a sweep as a whole: its baselines, and one run with the verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from tunerun.comparison import judge
from tunerun.comparison.results import EPOCH_LOSS, LOSS, BaselineResult, TrialResult, Verdict
from tunerun.digest import digest
from tunerun.job import JobState
from tunerun.ledger import Ledger, TrialProgress, TrialRecord
from tunerun.tracking.image import (
    ONCE,
    FrozenSweep,
    Input,
    Kind,
    Part,
    Point,
    RunImage,
    RunState,
    milliseconds,
    table_tag,
)
from tunerun.tracking.naming import override_line, run_name
from tunerun.tracking.trial import (
    BASE_LOSS,
    INTERRUPTED,
    PREDICTIONS,
    dataset_input,
    fenced,
    measure_points,
    measured,
    predictions_table,
    union_curve,
)

_MAX_NOTE_ROWS = 40
"""Trials in the note's table: MLflow cuts a note after 8,000 characters."""


def summary_seen(ledger: Ledger, sweep: FrozenSweep, progress: Sequence[TrialProgress], *, is_run: bool) -> str:
    """A digest of everything in the ledger that the baselines' and the sweep's runs depend on."""
    evaluated = [
        ledger.answered_at(subject, held_out, members[0].asked)
        for subject, members in _groups(sweep).items()
        for held_out in members[0].held_out.values()
    ]
    trials = [asdict(p) | {"last_step": 0 if not p.state.is_finished else p.last_step} for p in progress]
    is_interrupted = not is_run and not all(p.state.is_finished for p in progress)
    return digest([trials, evaluated, is_interrupted])


def summary_images(
    ledger: Ledger, sweep: FrozenSweep, progress: Sequence[TrialProgress], seen: str, *, is_run: bool
) -> list[RunImage]:
    """The runs of a sweep's baselines that are known, and the run of the sweep itself.

    Args:
        is_run: whether a process runs the sweep now; without one what is not finished was interrupted.
    """
    verdict = judge(ledger, sweep.record)
    groups = _groups(sweep)
    baselines = [_baseline_image(ledger, sweep, b, groups[b.subject], seen) for b in verdict.baselines if b.metrics]
    is_interrupted = not is_run and not verdict.is_complete
    return [*baselines, _sweep_image(ledger, sweep, progress, verdict, seen, is_interrupted=is_interrupted)]


def _groups(sweep: FrozenSweep) -> dict[str, list[TrialRecord]]:
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sweep.trials:
        for subject in trial.baselines:
            groups.setdefault(subject, []).append(trial)
    return groups


# Baselines


def _baseline_image(
    ledger: Ledger, sweep: FrozenSweep, baseline: BaselineResult, members: Sequence[TrialRecord], seen: str
) -> RunImage:
    evaluation = measured(ledger, sweep, members[0], baseline.subject)
    points = _base_loss(ledger, members)
    if evaluation is not None:
        points += measure_points(evaluation.metrics, evaluation.created_at)
    artifacts: dict[str, Part[str | bytes]] = {}
    if evaluation is not None:
        artifacts[PREDICTIONS] = Part(ONCE, lambda: predictions_table(evaluation.predictions))
    start_ms = milliseconds(sweep.record.created_at)
    return RunImage(
        subject=sweep.subject(Kind.BASELINE, baseline.subject),
        kind=Kind.BASELINE,
        identity=sweep.identity(Kind.BASELINE, key=baseline.subject),
        seen=seen,
        name=baseline.name,
        start_ms=start_ms,
        state=RunState.FINISHED,
        end_ms=max([start_ms, *(point.time_ms for point in points)]),
        tags=sweep.code_tags()
        | (table_tag(PREDICTIONS) if evaluation is not None else {})
        | {
            "tunerun.backend": members[0].settings.backend.get("kind", ""),
            "mlflow.note.content": f"**{baseline.model}** without tuning, asked with the same template: what trials "
            f"{', '.join(str(m.number) for m in members[:_MAX_NOTE_ROWS])} of sweep `{sweep.id}` have to beat.",
        },
        params=Part(ONCE, lambda: _baseline_params(members[0])),
        points=points,
        inputs=_held_out(sweep, members[0]),
        artifacts=artifacts,
    )


def _baseline_params(trial: TrialRecord) -> dict[str, str]:
    return {
        "model": trial.settings.model,
        "template": str(trial.overrides.get("template") or digest(asdict(trial.settings.template))[:8]),
        "backend": trial.settings.backend.get("kind", ""),
    }


def _held_out(sweep: FrozenSweep, trial: TrialRecord) -> Part[list[Input]] | None:
    held_out = trial.validation
    if held_out is None:
        return None
    return Part(ONCE, lambda: [dataset_input(sweep.examples(held_out), "validation")])


def _base_loss(ledger: Ledger, members: Sequence[TrialRecord]) -> list[Point]:
    """The base model's own loss, as the first job that was done measured it: that never changes any more."""
    keys = dict.fromkeys(member.key for member in members)
    measured = [
        (job.finished_at, job.id, job.metrics[BASE_LOSS])
        for key in keys
        for job in ledger.jobs(key)
        if BASE_LOSS in job.metrics and job.finished_at is not None
    ]
    if not measured:
        return []
    finished_at, _, loss = min(measured)
    return measure_points({LOSS: loss}, finished_at)


# The sweep


def _sweep_image(
    ledger: Ledger,
    sweep: FrozenSweep,
    progress: Sequence[TrialProgress],
    verdict: Verdict,
    seen: str,
    *,
    is_interrupted: bool,
) -> RunImage:
    document = dict(sweep.record.document)
    code = dict(document.get("code") or {})
    diff = str(code.pop("diff", ""))
    document["code"] = code or None
    return RunImage(
        subject=sweep.subject(Kind.SWEEP),
        kind=Kind.SWEEP,
        identity=sweep.identity(Kind.SWEEP),
        seen=seen,
        name=_sweep_name(sweep),
        start_ms=milliseconds(sweep.record.created_at),
        state=RunState.KILLED if is_interrupted else _state(verdict),
        end_ms=_end_ms(sweep, progress) if verdict.is_complete or is_interrupted else None,
        tags=_tags(sweep, verdict, is_interrupted=is_interrupted),
        params=Part(
            ONCE, lambda: {"trials": str(len(sweep.trials)), "varied": " ".join(sweep.varied)[:250] or "nothing"}
        ),
        points=_best_points(ledger, verdict),
        artifacts={
            "plan.json": Part(ONCE, lambda: json.dumps(document, indent=2, ensure_ascii=False)),
            **({"code.diff": Part(ONCE, lambda: diff)} if diff else {}),
            "trials.json": Part(seen, lambda: _trials_table(sweep, verdict)),
            **({"loss.png": Part(seen, lambda: _loss_png(ledger, sweep, verdict))} if _has_curves(progress) else {}),
        },
    )


def _sweep_name(sweep: FrozenSweep) -> str:
    """The id without the experiment's name, under which the run stands anyway: the page shows 20 characters."""
    return f"sweep {sweep.id.removeprefix(sweep.record.experiment + '-')}"


def _has_curves(progress: Sequence[TrialProgress]) -> bool:
    """Whether the sweep is done and there is something to draw."""
    return all(p.state.is_finished for p in progress) and any(p.last_step for p in progress)


def _state(verdict: Verdict) -> RunState:
    """The state of a sweep that is run or complete: SCHEDULED as long as no job of it is live."""
    states = {trial.state for trial in verdict.trials}
    if verdict.is_complete:
        return RunState.FINISHED if JobState.SUCCEEDED in states else RunState.FAILED
    live = states & {JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING}
    return RunState.RUNNING if live else RunState.SCHEDULED


def _end_ms(sweep: FrozenSweep, progress: Sequence[TrialProgress]) -> int:
    times = [t for p in progress for t in (p.finished_at, p.evaluated_at) if t is not None]
    return milliseconds(max([sweep.record.created_at, *times]))


def _tags(sweep: FrozenSweep, verdict: Verdict, *, is_interrupted: bool) -> dict[str, str]:
    counts = Counter(trial.state for trial in verdict.trials)
    tags = sweep.code_tags() | table_tag("trials.json")
    tags |= {
        "tunerun.state": f"{INTERRUPTED}: " * is_interrupted + ", ".join(f"{n} {state}" for state, n in counts.items()),
        "tunerun.best": "none" if verdict.best is None else str(verdict.best),
        "mlflow.note.content": _note(sweep, verdict, is_interrupted=is_interrupted),
    }
    best = next((t for t in verdict.trials if t.record.number == verdict.best), None)
    if best is not None and best.tuned_model is not None:
        tags["tunerun.tuned_model"] = best.tuned_model.name
    return tags


def _best_points(ledger: Ledger, verdict: Verdict) -> list[Point]:
    """The deciding metric of the best trial, once every trial that succeeded has been measured by it."""
    best = next((t for t in verdict.trials if t.record.number == verdict.best), None)
    metric = verdict.metric
    is_measured = all(metric in t.metrics for t in verdict.trials if t.state is JobState.SUCCEEDED)
    if best is None or metric is None or not is_measured or not verdict.is_complete:
        return []
    record, job = best.record, ledger.job(best.record.key)
    answered_at = ledger.answered_at(record.key, record.validation, record.asked) if record.validation else None
    time_s = answered_at if answered_at is not None and metric != LOSS else job and job.finished_at
    return measure_points({best_key(metric): best.metrics[metric]}, time_s) if time_s else []


def best_key(metric: str) -> str:
    """The metric of a sweep's own run, such as `best/exact_match`; the trials' bars stay as they are."""
    return f"best/{metric.removeprefix('eval/').replace('/', '_')}"


def _metrics_shown(verdict: Verdict) -> list[str]:
    names = {name for trial in verdict.trials for name in trial.metrics}
    first = [verdict.metric] if verdict.metric else []
    return [*first, *sorted(names - set(first))]


def _note(sweep: FrozenSweep, verdict: Verdict, *, is_interrupted: bool) -> str:
    metrics = [name for name in _metrics_shown(verdict) if name in (verdict.metric, LOSS, EPOCH_LOSS)]
    head = ["run", "state", *metrics]
    rows = [
        [_name(sweep, trial), str(trial.state), *(_figure(trial.metrics.get(m)) for m in metrics)]
        for trial in verdict.trials[:_MAX_NOTE_ROWS]
    ]
    rows += [[b.name, "", *(_figure(b.metrics.get(m)) for m in metrics)] for b in verdict.baselines[:5]]
    table = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    more = len(verdict.trials) - _MAX_NOTE_ROWS
    rest = [f"... and {more} trials more: trials.json has them all."] if more > 0 else []
    command = sweep.record.document.get("command", "tunerun run")
    head_lines = [f"**{verdict.sentence}**", ""]
    if is_interrupted:
        head_lines += ["Interrupted; the same command continues it:", "", *fenced(str(command)), ""]
    return "\n".join([*head_lines, *table, "", *rest]).strip()


def _name(sweep: FrozenSweep, trial: TrialResult) -> str:
    record = trial.record
    return run_name(record.number, len(sweep.trials), sweep.varied, record.overrides, record.config)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _trials_table(sweep: FrozenSweep, verdict: Verdict) -> str:
    metrics = _metrics_shown(verdict)
    columns = ["run", "state", *metrics, "tuned_model", "overrides", "advice"]
    rows = [
        [
            _name(sweep, trial),
            trial.state,
            *(trial.metrics.get(metric) for metric in metrics),
            trial.tuned_model.name if trial.tuned_model else None,
            " ".join(override_line(k, v) for k, v in trial.record.overrides.items()),
            trial.advice.text if trial.advice else None,
        ]
        for trial in verdict.trials
    ]
    rows += [[b.name, "", *(b.metrics.get(m) for m in metrics), None, "", None] for b in verdict.baselines]
    return json.dumps({"columns": columns, "data": rows}, ensure_ascii=False)


def _loss_png(ledger: Ledger, sweep: FrozenSweep, verdict: Verdict) -> bytes:
    from tunerun.report import Curve, sweep_plot

    curves = [
        Curve(_name(sweep, trial), tuple(curve), trial.metrics.get(LOSS))
        for trial in verdict.trials
        if (curve := union_curve(ledger, ledger.jobs(trial.record.key)))
    ]
    best = next((_name(sweep, t) for t in verdict.trials if t.record.number == verdict.best), None)
    return sweep_plot(f"{sweep.record.experiment}: {_sweep_name(sweep)}", curves, best)
