"""Scored answers to held-out examples: a run's metrics `eval/...` and `test/...`, and its table of answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tunerun.comparison.judges import identities_of
from tunerun.comparison.knowledge import HeldOutRows, Scores, readable
from tunerun.digest import digest
from tunerun.errors import ConfigError, MetricError, MissingPackageError
from tunerun.examples import as_text
from tunerun.ledger import LOSSES, Ledger, TrialRecord, rated_by
from tunerun.metrics import Metric, resolve_stored
from tunerun.tracking.naming import metric_key
from tunerun.tracking.run_projection import (
    Content,
    FrozenSweep,
    Input,
    RunPart,
    SingleMetric,
    dataset_input,
    milliseconds,
)

VALIDATION, TEST = "validation", "test"

FILES = {VALIDATION: "predictions.json", TEST: "test_predictions.json"}
"""The artifact that holds the answers, by held-out set."""

CONTEXTS = {VALIDATION: "validation", TEST: "testing"}
"""MLflow's name for the use of each held-out set."""

_PREFIXES = {VALIDATION: "eval/", TEST: "test/"}


@dataclass(frozen=True)
class ScoredAnswers:
    """The answers of one subject to one held-out set.

    Attributes:
        held_out: the name of the set.
        on: the set as an input of the run.
        at: when it answered, in seconds since 1970 (UTC).
        metrics: value by name.
        text_inputs: of each row.
        expected: the expected answer of each row.
        answers: None if only the losses of the expected answers are stored.
        scores: of each row, by the name of a metric that scores rows; None: a judge gave none that can be read.
    """

    held_out: str
    on: Input
    at: float
    metrics: Mapping[str, float]
    text_inputs: Sequence[str]
    expected: Sequence[str]
    answers: Sequence[str] | None
    scores: Mapping[str, Sequence[float | None]]

    @property
    def file(self) -> str:
        """The name of its table."""
        return FILES[self.held_out]

    @property
    def table(self) -> RunPart[Content]:
        """The table as an artifact, in the form that MLflow's page shows, alone and beside that of other runs."""

        def render() -> str:
            # Beside other runs the first column says which rows belong together and the second is compared (3.17.2).
            answers = {} if self.answers is None else {"answer": self.answers}
            columns = ["text_input", *answers, "expected", *self.scores]
            rows = zip(self.text_inputs, *answers.values(), self.expected, *self.scores.values(), strict=True)
            return json.dumps({"columns": columns, "data": [list(row) for row in rows]}, ensure_ascii=False)

        return RunPart(digest([self.at, sorted(self.metrics), list(self.scores)]), render)

    def measures(self) -> list[SingleMetric]:
        """Return its metrics, linked to the held-out set."""
        time_ms, prefix = milliseconds(self.at), _PREFIXES[self.held_out]
        return [
            SingleMetric(metric_key(prefix + name), value, time_ms, self.on)
            for name, value in sorted(self.metrics.items())
        ]


def scored_answers(
    ledger: Ledger, sweep: FrozenSweep, subject: str, trial: TrialRecord, held_out: str
) -> ScoredAnswers | None:
    """Return a subject's answers to a trial's held-out set, scored by the sweep's frozen metrics; None: it has none.

    Args:
        ledger: the truth.
        sweep: whose metrics score them.
        subject: the trial's key, or a baseline's.
        trial: says which set, and how its answers are obtained.
        held_out: the name of the set.
    """
    of_set = trial.held_out.get(held_out)
    if of_set is None:
        return None
    texts, losses = ledger.answers(subject, of_set, trial.asked), ledger.answers(subject, of_set, LOSSES)
    if texts is None and losses is None:
        return None
    examples = sweep.examples(of_set)
    metrics: Sequence[Metric] = ()
    with suppress(ConfigError):  # the deciding one is lost, which the sweep's own run reports
        metrics = resolve_stored(trial.settings.evaluation, sweep.record.document.get("metrics", {}))[0]

    stored = {(subject, of_set, asked): each for asked, each in ((trial.asked, texts), (LOSSES, losses)) if each}
    judges = identities_of(metrics, sweep.record.document)
    for asked in (rated_by(identity, trial.asked) for identity in judges.values()):
        if (ratings := ledger.answers(subject, of_set, asked)) is not None:
            stored[subject, of_set, asked] = ratings

    rows = Scores(stored, ledger, judges)
    values: dict[str, float] = {}
    scores: dict[str, Sequence[float | None]] = {}
    for metric in metrics:
        try:
            table = rows.of(metric, subject, HeldOutRows(of_set, trial.asked))
        except (MetricError, MissingPackageError):  # reported on the sweep's own run; the answers are still shown
            continue
        if table is None or not len(readable(metric, table)):
            continue
        values[metric.name] = float(metric.value(readable(metric, table).mean(axis=0)))
        if not metric.is_corpus:
            # NaN, which is not JSON: the judge's reply could not be read.
            scores[metric.name] = [None if math.isnan(score) else score for score in table[:, 0].tolist()]
    return ScoredAnswers(
        held_out,
        dataset_input(examples, CONTEXTS[held_out]),
        max(each.created_at for each in stored.values()),
        values,
        [as_text(example.input) for example in examples.examples],
        [example.output for example in examples.examples],
        None if texts is None else texts.texts,
        scores,
    )
