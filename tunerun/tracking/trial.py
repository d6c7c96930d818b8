"""What MLflow should show of one trial.

A trial is one run, also when its job was lost and tried again. Each step of the curve is shown once, as the first
attempt that reached it recorded it: what was sent never has to be taken back, and a rebuilt MLflow shows the same.
On a deterministic backend a later attempt's values are the same anyway. State, end and tuned model are those of the
last attempt.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from tunerun.comparison.curves import advise, epoch_means, finished_epochs
from tunerun.comparison.knowledge import BASE_LOSS, KEPT_EPOCH
from tunerun.comparison.results import LOSS
from tunerun.digest import digest
from tunerun.engine.tuned_model import WEIGHTS_FILE
from tunerun.errors import TunerunError
from tunerun.job import EpochLoss, JobState, Snapshot
from tunerun.ledger import JobRecord, Ledger, TrialRecord
from tunerun.ledger.portable import EXAMPLES
from tunerun.ledger.subjects import RunKind
from tunerun.stored import section
from tunerun.tracking.answers import FILES, TEST, VALIDATION, ScoredAnswers, scored_answers
from tunerun.tracking.naming import metric_key, override_line, override_value, param_name, run_name, value_of
from tunerun.tracking.run_projection import (
    EPOCH_LOSS,
    NOTE_TAG,
    ONCE,
    RECORD,
    RECORD_TAG,
    RERUN_OF_TAG,
    STEP_LOSS,
    VALIDATION_EPOCH_LOSS,
    Content,
    FrozenSweep,
    Input,
    LoggedModel,
    MetricPoint,
    Pages,
    RunPart,
    RunProjection,
    RunState,
    SharedTrial,
    SingleMetric,
    dataset_input,
    milliseconds,
    sweep_tag,
    table_tag,
)

if TYPE_CHECKING:
    from tunerun.tracking.packaged.writing import Package

TOKENS = "tokens/train"
_ON_VALIDATION = f"{VALIDATION}/"

MAX_ADAPTER_BYTES = 16 * 2**20
"""The largest adapter of which every trial's model in MLflow has a copy; of a larger one only the advised point's. Our
choice: at rank 8 SmolLM2-135M's has 10 MB, and is packaged in 0.03 s of CPU (2026-11-26)."""

_PACKAGED = "packaged 1"
"""In the version of a model with files: one that an earlier tunerun sent by its name alone gets its files too."""

_PORTABLE = "2"
"""The version of files that never change; those of version 1 named places of the machine."""

_PARAM_CHARACTERS = 250
"""Longest value of a param. Our choice: MLflow takes 6,000 (3.18.0)."""

_STATES = {
    JobState.RUNNING: RunState.RUNNING,
    JobState.SUCCEEDED: RunState.FINISHED,
    JobState.STOPPED: RunState.FINISHED,
    JobState.FAILED: RunState.FAILED,
    JobState.CANCELLED: RunState.KILLED,
}

INTERRUPTED = "INTERRUPTED"
"""The state of a trial whose job is under way and that no process watches; MLflow's nearest word is KILLED."""


def trial_projection(ledger: Ledger, shared: SharedTrial) -> RunProjection | None:
    """Return what MLflow should show of a trial now; None before its first job has started."""
    sweep, trial = shared.owner, shared.trial
    jobs = ledger.jobs(trial.key)
    started_at = jobs[0].began_at if jobs else None
    if started_at is None:  # MLflow cannot change the start of a run, so the run waits for the final one
        return None
    job = jobs[-1]
    curve, losses = union_curve(ledger, jobs), union_validation(ledger, jobs)

    answers: list[ScoredAnswers] = []
    for held_out in FILES:  # of each set as the newest sweep that asked for it has them
        by_sweep = (
            scored_answers(ledger, owner, member.key, member, held_out) for owner, member in reversed(shared.members)
        )
        answers += [newest] if (newest := next(filter(None, by_sweep), None)) else []
    validation = None
    if trial.validation is not None:
        validation = dataset_input(sweep.examples(trial.validation), VALIDATION)
    inputs = [dataset_input(sweep.examples(trial.training), "training"), *([validation] if validation else [])]
    inputs += [each.on for each in answers if each.held_out == TEST]

    name = run_name(trial.number, len(sweep.trials), sweep.varied, trial.overrides, trial.config)
    # Not the rows: they are once in the record of the sweep's run, which the tag `tunerun.record` names.
    artifacts: dict[str, RunPart[Content]] = {
        "experiment.yaml": RunPart(_PORTABLE, lambda: _yaml(sweep.places.config(trial.config))),
        "overrides.txt": RunPart(_PORTABLE, lambda: "".join(f"{line}\n" for line in override_lines(sweep, trial))),
        "template.yaml": RunPart(ONCE, lambda: _yaml(trial.settings.template.document)),
        **{each.file: each.table for each in answers},
    }
    if job.state.is_finished and curve:
        artifacts["loss.png"] = RunPart(str(job.attempt), lambda: _loss_png(name, job, curve, losses))
    for attempt in jobs:
        if attempt.failure is not None and attempt.failure.traceback:
            artifacts[f"failure-{attempt.attempt}.txt"] = RunPart(ONCE, partial(str, attempt.failure.traceback))

    state, end = _STATES.get(job.state, RunState.SCHEDULED), job.finished_at
    if shared.is_interrupted:
        state, end = RunState.KILLED, max([started_at, *(s.compute_time for s in curve[-1:])])
    return RunProjection(
        subject=shared.subject,
        identity=sweep.identity(RunKind.TRIAL, trial=str(trial.number), key=trial.key),
        ledger_digest=shared.ledger_digest,
        name=name,
        start_ms=milliseconds(started_at),
        state=state,
        end_ms=milliseconds(end) if end is not None else None,
        tags=_tags(ledger, shared, jobs, _note(shared, job, curve, losses))
        | table_tag(*(each.file for each in answers)),
        params=RunPart(str(len(shared.members)), lambda: _params(shared)),
        points=_curve_points(ledger, curve, losses, job),
        measures=_measures(trial, job, answers, validation),
        inputs=RunPart(str(len(inputs)), lambda: inputs),
        artifacts=artifacts,
        model=_model(sweep, trial, job, is_advised=shared.standing is not None and shared.standing.is_advised),
    )


def union_curve(ledger: Ledger, jobs: Sequence[JobRecord]) -> list[Snapshot]:
    """Return the loss curve over all attempts, by step: each step as the first attempt that reached it recorded it."""
    curve: list[Snapshot] = []
    for job in jobs:
        curve += ledger.snapshots(job.id, after_step=curve[-1].step if curve else 0)
    return curve


def union_validation(ledger: Ledger, jobs: Sequence[JobRecord]) -> list[EpochLoss]:
    """Return the validation loss of each epoch over all attempts, as the first attempt that reached it recorded it."""
    losses: dict[int, EpochLoss] = {}
    for job in jobs:
        for one in ledger.epoch_losses(job.id):
            losses.setdefault(one.epoch, one)
    return [losses[epoch] for epoch in sorted(losses)]


def _curve_points(
    ledger: Ledger, curve: Sequence[Snapshot], losses: Sequence[EpochLoss], job: JobRecord
) -> list[MetricPoint]:
    points = [MetricPoint(STEP_LOSS, _finite_or_nan(s.mean_loss), milliseconds(s.compute_time), s.step) for s in curve]
    is_done = job.state is JobState.SUCCEEDED
    for epoch, group in groupby(finished_epochs(curve, is_done=is_done), key=lambda s: s.epoch):
        steps = list(group)
        if is_done and epoch == curve[-1].epoch and job.attempt > 1:
            # As the table has it: an earlier attempt that was lost in the last epoch has no part in its result.
            steps = [s for s in ledger.snapshots(job.id) if s.epoch == epoch]
        points.append(
            MetricPoint(EPOCH_LOSS, _finite_or_nan(epoch_means(steps)[0]), milliseconds(steps[-1].compute_time), epoch)
        )
    ends = {s.epoch: s.compute_time for s in curve}
    points += [
        MetricPoint(VALIDATION_EPOCH_LOSS, _finite_or_nan(one.loss), milliseconds(ends[one.epoch]), one.epoch)
        for one in losses
        if one.epoch in ends
    ]
    return points


def _finite_or_nan(value: float) -> float:
    # MLflow stores infinity as 1.8e308 (3.18.0), which flattens the whole chart; NaN is a gap in it.
    return value if math.isfinite(value) else math.nan


def _measures(
    trial: TrialRecord, job: JobRecord, answers: Sequence[ScoredAnswers], on: Input | None
) -> list[SingleMetric]:
    measures: list[SingleMetric] = []
    if job.state is JobState.SUCCEEDED and job.finished_at is not None:
        # The plan's count, which may be an estimate, where the backend has not counted.
        values = {TOKENS: float(trial.tokens)} | {k: v for k, v in job.metrics.items() if k != BASE_LOSS}
        measures = single_metrics(values, job.finished_at, on)
    return [*measures, *(measure for each in answers for measure in each.measures())]


def single_metrics(metrics: Mapping[str, float], time_s: float, on: Input | None) -> list[SingleMetric]:
    """Return single values of one time.

    Args:
        metrics: values by name; the names may have characters that MLflow refuses.
        time_s: when they were measured, in seconds since 1970 (UTC).
        on: the validation set, to which metrics called `validation/...` are linked; None: MLflow does not have it.
    """
    return [
        SingleMetric(
            metric_key(name),
            _finite_or_nan(value),
            milliseconds(time_s),
            on if name.startswith(_ON_VALIDATION) else None,
        )
        for name, value in sorted(metrics.items())
    ]


def _tags(ledger: Ledger, shared: SharedTrial, jobs: Sequence[JobRecord], note: str) -> dict[str, str]:
    job = jobs[-1]
    trained_by = next((sweep for sweep, _ in shared.members if sweep.id == job.sweep), shared.members[0][0])
    tags = trained_by.code_tags() | {
        "tunerun.sweep": shared.owner.id,
        "tunerun.trial": str(shared.trial.number),
        **{sweep_tag(sweep.id): str(trial.number) for sweep, trial in shared.members},
        "tunerun.backend": shared.trial.settings.backend.get("kind", ""),
        "tunerun.state": INTERRUPTED if shared.is_interrupted else job.state,
        "tunerun.attempt": str(job.attempt),
        NOTE_TAG: note,
        **(shared.standing.tags() if shared.standing is not None else {}),
    }
    if shared.record_run is not None:
        tags[RECORD_TAG] = f"runs:/{shared.record_run}/{RECORD}"
    if shared.owner.rerun_of:
        tags[RERUN_OF_TAG] = shared.owner.rerun_of
    reference = next((j.ref for j in reversed(jobs) if j.ref is not None), None)
    if reference is not None:
        tags["tunerun.job"] = reference.id
    if job.tuned_model is not None:
        tags["tunerun.tuned_model"] = job.tuned_model.name
    numbers = {trial.key: trial.number for trial in reversed(shared.owner.trials)}
    if job.trained_on is not None:  # how its passes were computed, and which trials of the sweep they also served
        sharing = job.trained_on.shared(numbers)
        tags["tunerun.form"] = sharing["form"]
        if sharing["training_run"] is not None:
            tags["tunerun.training_run"] = str(sharing["training_run"])
        if sharing["packed_with"]:
            tags["tunerun.packed_with"] = ", ".join(map(str, sharing["packed_with"]))
    # Why its held-out rows are not all answered: it has no `eval/...` then, which would be of some rows alone.
    trial, validation = shared.trial, shared.trial.validation
    if validation is not None and ledger.answered_at(trial.key, validation, trial.asked) is None:
        stop = ledger.stop(shared.owner.id, (trial.key, validation, trial.asked))
        if stop is not None:
            rows = len(shared.owner.examples(validation).examples)
            better = f"trial {numbers[stop.better]}" if stop.better in numbers else "another trial"
            tags["tunerun.stopped_early"] = f"after {stop.rows:,} of {rows:,} held-out rows, worse than {better}"
    return tags


def _note(shared: SharedTrial, job: JobRecord, curve: Sequence[Snapshot], losses: Sequence[EpochLoss]) -> str:
    sweep, trial = shared.owner, shared.trial
    state = INTERRUPTED if shared.is_interrupted else job.state
    lines = [f"**Trial {trial.number}** of sweep `{sweep.id}`: {state}", ""]
    if shared.is_interrupted:
        lines += ["No process runs its sweep; the same command continues it:", ""]
        lines += [*fenced(str(sweep.record.document.get("command", "tunerun run"))), ""]
    if job.state.is_finished and curve:
        lines[0] += f". Loss curve: {advise(epoch_means(curve), losses, keeps_best=KEPT_EPOCH in job.metrics).text}."
    if job.failure is not None:
        # MLflow cuts the note, a tag, after 8,000 characters (3.18.0); the whole traceback is an artifact.
        lines += [f"Failed ({job.failure.kind}):", "", *fenced(job.failure.message[:2000]), ""]
    lines += [*(f"- `{line}`" for line in override_lines(sweep, trial)), ""]
    if len(shared.members) > 1:
        others = ", ".join(f"trial {other.number} of `{each.id}`" for each, other in reversed(shared.members[:-1]))
        lines += [f"The same trial is {others}: one job, one run.", ""]
    if job.tuned_model is not None:
        lines += [f"Tuned model: `{job.tuned_model.name}` in `{job.tuned_model.location}`", ""]
    lines += rerun_lines(sweep, shared.pages)
    if shared.record_run is not None:
        sets = {"training": trial.training, **trial.held_out}
        rows = ", ".join(f"`{EXAMPLES}/{digest}.jsonl.gz` ({use})" for use, digest in sets.items())
        record = f"[{RECORD}]({shared.pages.path(shared.record_run, f'/artifacts/{RECORD}')})"
        again = "`tunerun rerun --run` with the id of this run runs it again, on any machine."
        lines += [f"Rows: {rows} in the {record} of its sweep. {again}"]
    return "\n".join(lines).strip()


def rerun_lines(sweep: FrozenSweep, pages: Pages) -> list[str]:
    """Return what a sweep runs again, with a link if MLflow shows that in the same experiment; empty: nothing."""
    if not sweep.rerun_of:
        return []
    source = section(sweep.record.document, "rerun_of")
    trial, original = source.get("trial"), f"sweep `{source.get('sweep')}`"
    words = original if trial is None else f"trial {trial} of {original}"
    if sweep.rerun_of in pages.runs:
        words = f"[{words}]({pages.path(sweep.rerun_of)})"
    return [f"A rerun of {words}.", ""]


def fenced(text: str) -> list[str]:
    """Return text as a block of code in Markdown, whatever backticks it holds."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return [fence, text, fence]


def _params(shared: SharedTrial) -> dict[str, str]:
    # MLflow refuses another value of a param: the oldest sweep's count, and each later one adds what else it varies.
    sweep, trial = shared.members[0]
    settings = trial.settings
    hyperparameters = settings.hyperparameters
    params: dict[str, Any] = {
        "epoch_count": hyperparameters.epoch_count,
        "batch_size": hyperparameters.batch_size,
        "learning_rate": hyperparameters.effective_learning_rate,
        "adapter_rank": hyperparameters.adapter_rank,
        "adapter_alpha": hyperparameters.adapter_alpha,
        "template": trial.overrides.get("template") or digest(settings.template.document)[:8],
        "model": settings.model,
        "dataset": PurePath(settings.dataset).name,
        "backend": settings.backend.get("kind", ""),
        "seed": settings.seed,
        "examples": len(sweep.examples(trial.training).examples),
    }
    for each, own in shared.members:
        for key in each.varied:
            params.setdefault(param_name(key), value_of(key, own.overrides, own.config))
    return {name: override_value(value)[:_PARAM_CHARACTERS] for name, value in params.items()}


def override_lines(sweep: FrozenSweep, trial: TrialRecord) -> list[str]:
    """Return a trial's overrides as they can be typed, files without their folders."""
    return [override_line(key, sweep.places.value(key, value)) for key, value in trial.overrides.items()]


def _yaml(value: object) -> str:
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True)


def _loss_png(name: str, job: JobRecord, curve: Sequence[Snapshot], losses: Sequence[EpochLoss]) -> bytes:
    from tunerun.plots import TrialCurve, trial_plot

    return trial_plot(
        TrialCurve(name, tuple(curve), job.metrics.get(LOSS), job.metrics.get(BASE_LOSS), validation=tuple(losses))
    )


def _model(sweep: FrozenSweep, trial: TrialRecord, job: JobRecord, *, is_advised: bool) -> RunPart[LoggedModel] | None:
    """Return the tuned model: one that MLflow can load if that costs little, or if it is the one to use."""
    tuned = job.tuned_model
    if tuned is None:
        return None
    size = None  # of an adapter that is on this machine
    if job.state is JobState.SUCCEEDED and tuned.folder is not None:
        with suppress(OSError):
            size = (tuned.folder / WEIGHTS_FILE).stat().st_size
    is_packaged = size is not None and (size <= MAX_ADAPTER_BYTES or is_advised)

    def package(folder: Path) -> Package | None:
        from tunerun.tracking.packaged import writing  # the backends: a tracker is opened without them

        held_out = sweep.examples(trial.validation).examples if trial.validation is not None else ()
        try:
            return writing.write(folder, writing.source_of(trial, job, held_out))
        except (TunerunError, OSError):  # removed or damaged since; its name is shown all the same
            return None

    model = LoggedModel(
        name=tuned.name.rpartition("/")[2],
        tags={
            "tunerun.tuned_model": tuned.name,
            "tunerun.key": trial.key,
            "tunerun.base_model": tuned.model.name,
            **({} if is_packaged else {"tunerun.location": tuned.location}),
        },
        params={"base_model": tuned.model.name},
        package=package if is_packaged else None,
    )
    return RunPart(f"{tuned.name} {_PACKAGED}" if is_packaged else tuned.name, lambda: model)
