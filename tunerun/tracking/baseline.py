"""What MLflow should show of a baseline: a run of its own, beside the trials that have it to beat."""

from __future__ import annotations

from collections.abc import Sequence

from tunerun.comparison.knowledge import BASE_LOSS
from tunerun.comparison.renderers.note import escaped
from tunerun.comparison.results import LOSS, BaselineResult
from tunerun.digest import digest
from tunerun.ledger import Ledger, TrialRecord
from tunerun.ledger.subjects import RunKind, subject_of_baseline
from tunerun.tracking.answers import FILES, VALIDATION, ScoredAnswers, scored_answers
from tunerun.tracking.run_projection import (
    NOTE_TAG,
    ONCE,
    FrozenSweep,
    Input,
    RunPart,
    RunProjection,
    RunState,
    SingleMetric,
    dataset_input,
    milliseconds,
    table_tag,
)
from tunerun.tracking.trial import single_metrics

_MAX_NAMED = 40
"""Trials that a baseline's description names."""


def baseline_projection(
    ledger: Ledger, sweep: FrozenSweep, baseline: BaselineResult, members: Sequence[TrialRecord], ledger_digest: str
) -> RunProjection:
    """Return what MLflow should show of a baseline.

    Args:
        ledger: the truth.
        sweep: the one that has it.
        baseline: its results.
        members: the trials that have it to beat; not empty.
        ledger_digest: of everything in the ledger that the sweep's verdict depends on.
    """
    first = members[0]
    backend = first.settings.backend.get("kind", "")
    held_out = None
    if first.validation is not None:
        held_out = dataset_input(sweep.examples(first.validation), VALIDATION)
    # Its answers to each held-out set, as they were asked for any of its trials: the first one's, if there are several.
    askers = {(name, trial.held_out.get(name), trial.asked): trial for trial in members for name in FILES}
    by_set: dict[str, ScoredAnswers] = {}
    for (name, *_), trial in askers.items():
        if name not in by_set and (scored := scored_answers(ledger, sweep, baseline.subject, trial, name)) is not None:
            by_set[name] = scored
    answers = list(by_set.values())

    measures = _base_loss(ledger, members, held_out) if LOSS in baseline.estimates else []
    measures += [measure for each in answers for measure in each.measures()]
    start_ms = milliseconds(sweep.record.created_at)
    trials = ", ".join(str(m.number) for m in members[:_MAX_NAMED])
    return RunProjection(
        subject=subject_of_baseline(sweep.id, baseline.subject),
        identity=sweep.identity(RunKind.BASELINE, key=baseline.subject),
        ledger_digest=ledger_digest,
        name=baseline.name,
        start_ms=start_ms,
        state=RunState.FINISHED,
        end_ms=max([start_ms, *(measure.time_ms for measure in measures)]),
        tags=sweep.code_tags()
        | table_tag(*(each.file for each in answers))
        | {
            "tunerun.point": baseline.name,
            "tunerun.backend": backend,
            NOTE_TAG: f"**{escaped(baseline.name)}**: {escaped(baseline.words or baseline.name)}, without tuning. "
            f"What trials {trials} of sweep `{sweep.id}` have to beat.",
        },
        params=RunPart(
            ONCE,
            lambda: {
                "model": baseline.model,
                "template": str(first.overrides.get("template") or digest(first.settings.template.document)[:8]),
                "backend": backend,
            },
        ),
        measures=measures,
        inputs=None if held_out is None else RunPart(ONCE, lambda: [held_out]),
        artifacts={each.file: each.table for each in answers},
    )


def _base_loss(ledger: Ledger, members: Sequence[TrialRecord], on: Input | None) -> list[SingleMetric]:
    # Each job of a base model measures its loss. The first one's is shown: that never changes any more.
    losses = [
        (job.finished_at, job.id, job.metrics[BASE_LOSS])
        for key in dict.fromkeys(member.key for member in members)
        for job in ledger.jobs(key)
        if BASE_LOSS in job.metrics and job.finished_at is not None
    ]
    if not losses:
        return []
    finished_at, _, loss = min(losses)
    return single_metrics({LOSS: loss}, finished_at, on)
