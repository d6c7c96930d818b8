"""The sources of a report, read from the ledger of its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePath
from typing import Any

import yaml

from tunerun.comparison.knowledge import BASE_LOSS
from tunerun.comparison.numbers import counted
from tunerun.comparison.report.plots import point_name
from tunerun.comparison.report.sources import ConfusionTable, LossCurve, ReportSources, ShownAnswers, thinned
from tunerun.comparison.results import LOSS, BaselineResult, TrialResult, Verdict
from tunerun.errors import ConfigError
from tunerun.examples import Example
from tunerun.ledger import Ledger, TrialRecord, holds_texts
from tunerun.metrics import Asks, Metric, Unit, resolve_stored
from tunerun.metrics.confusion import Confusion
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.metrics.labels import label
from tunerun.redaction import redact
from tunerun.stored import section

MOST_LABELS = 20
"""Of a confusion matrix that still fits beside another one."""

_LOCAL = ("paths", "tracking")
"""Sections of a config about the machine that ran it."""

_WITH_PATHS = ("dataset", "model")
"""Sections that may name files by absolute paths."""


def read_sources(ledger: Ledger, verdict: Verdict) -> ReportSources:
    """Read what a report shows beside the verdict; what the ledger has not (yet) is left out."""
    reader = _Reader(ledger, verdict)
    return ReportSources(
        rows=reader.rows,
        answers=reader.answers,
        right_rule=reader.right_rule,
        curves=reader.curves(),
        training_rows={t.record.key: len(reader.examples(t.record.training)) for t in verdict.trials},
        configs=tuple((sweep, reader.config(trials[0].record)) for sweep, trials in reader.by_sweep.items()),
        facts=reader.facts(),
        findings=reader.findings(),
        confusion=reader.confusion(),
    )


class _Reader:
    def __init__(self, ledger: Ledger, verdict: Verdict) -> None:
        self._ledger = ledger
        self._verdict = verdict
        self._examples: dict[str, tuple[Example, ...]] = {}
        self._answers = {
            key: each for sweep in verdict.sweeps for key, each in ledger.answers_of_sweep(sweep.id).items()
        }

    @cached_property
    def by_sweep(self) -> dict[str, list[TrialResult]]:
        trials_of: dict[str, list[TrialResult]] = {}
        for trial in self._verdict.trials:
            trials_of.setdefault(trial.sweep, []).append(trial)
        return trials_of

    def examples(self, digest: str | None) -> tuple[Example, ...]:
        if digest is None:
            return ()
        if digest not in self._examples:
            self._examples[digest] = self._ledger.example_set(digest).examples
        return self._examples[digest]

    def _held_out(self, record: TrialRecord) -> str | None:
        return record.held_out.get(self._verdict.held_out)

    @cached_property
    def rows(self) -> tuple[Example, ...]:
        """The held-out rows of the first trial that has any, as its template renders them."""
        return next((rows for t in self._verdict.trials if (rows := self.examples(self._held_out(t.record)))), ())

    @cached_property
    def answers(self) -> dict[str, ShownAnswers]:
        """By subject; none of a trial whose held-out set has other rows than the first one's."""
        verdict = self._verdict
        # A template axis makes several held-out sets of the same rows, which are shown side by side; answers to other
        # rows would be shown beside questions that were never asked.
        subjects = [(trial.record.key, trial.record) for trial in verdict.trials]
        subjects += [(baseline.subject, record) for baseline in verdict.baselines for record in self._records(baseline)]
        row_names = {d: n for sweep in verdict.sweeps for d, n in sweep.document.get("held_out_rows", {}).items()}
        first = next((d for trial in verdict.trials if (d := self._held_out(trial.record)) is not None), None)
        outputs = [example.output for example in self.rows]

        answers: dict[str, ShownAnswers] = {}
        for subject, record in subjects:
            digest = self._held_out(record)
            expected = [example.output for example in self.examples(digest)]
            # What it answered in the way that was frozen; else, where another way was compared, in that one.
            ways = [way for s, h, way in self._answers if (s, h) == (subject, digest) and holds_texts(way)]
            if digest is None or not ways:
                continue

            texts = self._answers[subject, digest, record.asked if record.asked in ways else ways[0]].texts
            if subject in answers or not len(texts) == len(expected) == len(self.rows) > 0:
                continue
            # Plans of old versions do not name the rows behind a held-out set: then the expected answers say enough.
            is_named = digest in row_names and first in row_names
            if not (row_names[digest] == row_names[first] if is_named else expected == outputs):
                continue

            if self._metric is not None:
                right = tuple(bool(score >= 1) for score in self._metric.rows(expected, texts)[:, 0])
            else:
                right = tuple(label(want) == label(text) for want, text in zip(expected, texts, strict=True))
            answers[subject] = ShownAnswers(texts, right)
        return answers

    def _records(self, baseline: BaselineResult) -> list[TrialRecord]:
        """The trials that a baseline belongs to."""
        trials = self._verdict.trials
        return [trials[place].record for place in baseline.trials if place < len(trials)]

    @cached_property
    def _metric(self) -> Metric | None:
        """The metric that decides, where it calls a row right or wrong."""
        verdict = self._verdict
        if not verdict.trials or verdict.metric is None:
            return None
        evaluation = section(verdict.trials[0].record.config, "evaluation")
        files = verdict.sweep.document.get("metrics", {})
        try:
            metrics, _ = resolve_stored(evaluation, files, runs_code=not self._ledger.is_restored)
        except ConfigError:
            return None
        deciding = next((metric for metric in metrics if f"eval/{metric.name}" == verdict.metric), None)
        # A corpus metric has no score of a row, and a judge's is not computed from texts; a loss has no right value.
        if deciding is None or deciding.is_corpus or isinstance(deciding, JudgedMetric):
            return None
        return deciding if deciding.unit is Unit.SHARE and deciding.asks is Asks.ANSWERS else None

    @property
    def right_rule(self) -> str:
        """When an answer counts as right."""
        if self._metric is not None:
            return f"An answer counts as right where {self._verdict.metric} is 1 for it."
        return (
            "An answer counts as right here where it equals the expected one; case, white space, quotes around it and "
            "a stop behind it do not count."
        )

    def curves(self) -> dict[str, LossCurve]:
        """The loss curves, by a trial's key; of a key that sweeps share, once."""
        lines: dict[str, LossCurve] = {}
        for sweep, trials in self.by_sweep.items():
            jobs, curves = self._ledger.last_jobs(sweep), self._ledger.curves(sweep)
            held_out = self._ledger.validation_curves(sweep)
            for trial in trials:
                job = jobs.get(trial.record.key)
                if job is None or not (snapshots := curves.get(job.id)):
                    continue
                # By epoch and not by step: the steps of two batch sizes cannot be laid over each other.
                epochs = trial.record.settings.hyperparameters.epoch_count
                steps = max(trial.record.steps, snapshots[-1].step)
                training = thinned([(s.step * epochs / steps, s.mean_loss) for s in snapshots])
                base, tuned, by_epoch = job.metrics.get(BASE_LOSS), job.metrics.get(LOSS), held_out.get(job.id, ())
                measured = [] if base is None else [(0.0, base)]  # the base model has trained no epoch
                if not by_epoch and tuned is not None:
                    measured.append((float(epochs), tuned))
                measured += [(float(one.epoch), one.loss) for one in by_epoch]
                lines[trial.record.key] = LossCurve(training, tuple(measured))
        return lines

    def confusion(self) -> tuple[ConfusionTable, ...]:
        """Where answers are labels, of the point that the sentence is about, or the best, and the hardest baseline."""
        verdict = self._verdict
        deciding = next((m for m in verdict.measures if m.name == verdict.metric), None)
        measured = [p for p in verdict.points if deciding and deciding.name in p.estimates and not p.stopped]
        if deciding is None or not measured:
            return ()
        # The point of the sentence, so that the matrix is of what the reader has just read about.
        sign = 1 if deciding.higher_is_better else -1
        about = [p for p in measured if p.number in (verdict.decision.advised, verdict.decision.about)]
        point = max(about or measured, key=lambda p: sign * p.estimates[deciding.name].value)
        records = [verdict.trials[place].record for place in point.trials]
        seeds = f", all {len(records)} seeds" if len(records) > 1 else ""
        tables = [self._confusion(f"Point {point_name(point)}{seeds}", [(record.key, record) for record in records])]
        tables += [
            self._confusion(each.name, [(each.subject, record)])
            for each in verdict.baselines
            if each.name == verdict.decision.against
            for record in self._records(each)[:1]
        ]
        return tuple(table for table in tables if table is not None)

    def _confusion(self, name: str, subjects: Sequence[tuple[str, TrialRecord]]) -> ConfusionTable | None:
        expected: list[str] = []
        texts: list[str] = []
        # The counts of all seeds together: one seed's are often too few for a cell to mean something.
        for subject, record in subjects:
            if (answered := self.answers.get(subject)) is not None:
                expected += [example.output for example in self.examples(self._held_out(record))]
                texts += answered.texts
        matrix = Confusion.of(expected, texts)
        if not matrix.is_readable or len(matrix.labels) > MOST_LABELS:
            return None
        has_others = any(row[-1] for row in matrix.counts)
        columns = (*matrix.labels, "(anything else)") if has_others else matrix.labels
        return ConfusionTable(name, matrix.labels, columns, tuple(row[: len(columns)] for row in matrix.counts))

    def facts(self) -> tuple[tuple[str, str], ...]:
        """The data and the models, as (what, value)."""
        verdict = self._verdict
        records = [trial.record for trial in verdict.trials]
        data = dict.fromkeys(text for sweep in verdict.sweeps for text in sweep.document.get("data", {}).values())
        facts = [("Data", redact("; ".join(map(str, data))))] if data else []
        training = sorted({len(self.examples(record.training)) for record in records})
        if training:
            counts = counted(training[-1], "example")
            facts.append(("Training", counts if len(training) == 1 else f"{training[0]:,} to {counts}, by point"))
        clusters: dict[str, Sequence[int]] = {}
        for sweep in verdict.sweeps:
            clusters |= sweep.document.get("clusters") or {}
        for name in dict.fromkeys(name for record in records for name in record.held_out):
            sizes = []
            for digest in dict.fromkeys(record.held_out[name] for record in records if name in record.held_out):
                different = len(set(clusters.get(digest, ())))
                rows = counted(len(self.examples(digest)), "row")
                sizes.append(f"{rows} in {counted(different, 'cluster')}" if different else rows)
            facts.append((f"Held out, {name}", "; ".join(dict.fromkeys(sizes))))
        models = dict.fromkeys(record.settings.model for record in records)
        facts.append(("Base model", ", ".join(name for name in models if name) or "not recorded"))
        for sweep in verdict.sweeps:
            for opening in self._ledger.openings(sweep.id):
                when = datetime.fromtimestamp(opening.opened_at, UTC)
                facts.append(("Test set opened", f"{when:%Y-%m-%d %H:%M} UTC"))
        return tuple(dict.fromkeys(facts))

    def findings(self) -> tuple[str, ...]:
        """What the plans warned of."""
        warnings = [str(each) for sweep in self._verdict.sweeps for each in sweep.document.get("warnings", ())]
        return tuple(dict.fromkeys(map(self._portable, warnings)))

    def config(self, record: TrialRecord) -> str:
        """A trial's config as YAML, without what only the machine knows that ran it."""
        portable = {key: value for key, value in record.config.items() if key not in _LOCAL}
        return self._portable(redact(yaml.safe_dump(portable, allow_unicode=True, sort_keys=False, width=10_000)))

    def _portable(self, text: str) -> str:
        """A text in which a file is called by its name, without the folder it is in: a report is for others too."""
        for path in self._paths:
            text = text.replace(path, PurePath(path).name)
        return text

    @cached_property
    def _paths(self) -> list[str]:
        """The absolute paths that configs name in sections that have paths, the longest first."""
        sections = [trial.record.config.get(name) for trial in self._verdict.trials for name in _WITH_PATHS]
        # The longest first, because a folder may be the beginning of another path.
        paths = {text for each in sections for text in _strings(each) if PurePath(text).parent.name}
        paths = {path for path in paths if PurePath(path).is_absolute()}
        return sorted(paths, key=lambda path: (-len(path), path))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
