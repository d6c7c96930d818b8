"""The data of a record that the appendix reads, each read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from tunerun import dotted_keys
from tunerun.comparison import sentences
from tunerun.comparison.judgement import TEST, VALIDATION, judge
from tunerun.comparison.numbers import counted
from tunerun.comparison.report import read_sources
from tunerun.comparison.results import Verdict
from tunerun.job import TrainedOn
from tunerun.ledger import JobRecord, Opening, TrialRecord
from tunerun.metrics import Metric, resolve_stored
from tunerun.provenance import Facts
from tunerun.record.difference.rows import Row, rows_of
from tunerun.record.sources import OpenRecord
from tunerun.replicates import point_numbers

NOT_RECORDED = "not recorded"
NOT_STATED = "not stated"
SETS = ("training", VALIDATION, TEST)


class Material:
    """A sweep as the topics of an appendix read it.

    Args:
        record: of the sweep, or of one of its trials.
    """

    def __init__(self, record: OpenRecord) -> None:
        self.record = record
        self.sweep = record.sweep
        self.document: Mapping[str, Any] = record.sweep.document
        self.facts: Facts = record.facts
        self._rows: dict[str, list[Row]] = {}
        self._shared: dict[tuple[str, str], int] = {}

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """All trials of the sweep."""
        return self.record.ledger.trials(self.sweep.id)

    @cached_property
    def points(self) -> list[list[TrialRecord]]:
        """The trials of each point, by its number."""
        by_number: dict[int, list[TrialRecord]] = {}
        for number, trial in zip(point_numbers(trial.overrides for trial in self.trials), self.trials, strict=True):
            by_number.setdefault(number, []).append(trial)
        return list(by_number.values())

    @cached_property
    def jobs(self) -> dict[str, list[JobRecord]]:
        """All attempts, by key."""
        return {trial.key: self.record.ledger.jobs(trial.key) for trial in self.trials}

    @cached_property
    def verdict(self) -> Verdict:
        """The comparison on the validation set."""
        return judge(self.record.ledger, self.sweep)

    @cached_property
    def test_verdict(self) -> Verdict | None:
        """The comparison on the test set; None: it was not opened."""
        return judge(self.record.ledger, self.sweep, held_out=TEST) if self.openings else None

    @cached_property
    def openings(self) -> list[Opening]:
        """The openings of the test set, also by other sweeps that share it."""
        return self.record.ledger.openings(self.sweep.id)

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """The metrics that the sweep was frozen with; the first one decides."""
        # Code that a record from elsewhere names is not run, not even to describe it: it may have come with the record.
        evaluation, files = self.trials[0].settings.evaluation, self.document.get("metrics", {})
        return resolve_stored(evaluation, files, runs_code=not self.record.ledger.is_restored)[0]

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """The plan's warnings, without paths of the machine."""
        return read_sources(self.record.ledger, self.verdict).findings

    def rows(self, digest: str) -> list[Row]:
        """Return the examples of a set as pairs of input and output."""
        if digest not in self._rows:
            self._rows[digest] = rows_of(self.record.ledger.example_set(digest))
        return self._rows[digest]

    def shared_inputs(self, digest: str, other: str) -> int:
        """Return the number of rows in one set whose input also occurs in another.

        Args:
            digest: of the set whose rows are counted.
            other: digest of the other set.
        """
        # The trials of a sweep share their sets, so few pairs are counted, but often.
        if (digest, other) not in self._shared:
            inputs = {text for text, _ in self.rows(other)}
            self._shared[digest, other] = sum(text in inputs for text, _ in self.rows(digest))
        return self._shared[digest, other]

    def digests(self, name: str) -> list[str]:
        """Return the digests of the trials' different sets of a kind.

        Args:
            name: `training`, `validation` or `test`.
        """
        digests = (trial.training if name == "training" else trial.held_out.get(name) for trial in self.trials)
        return [digest for digest in dict.fromkeys(digests) if digest is not None]

    def sizes(self, name: str) -> str:
        """Return the size of the sets of a kind, such as `24 rows` or `16 to 128 rows`; empty: no trial has one."""
        counts = sorted({len(self.rows(digest)) for digest in self.digests(name)})
        if not counts:
            return ""
        return counted(counts[0], "row") if len(counts) == 1 else f"{counts[0]:,} to {counted(counts[-1], 'row')}"

    def config_values(self, key: str) -> list[Any]:
        """Return the different values of the trials' configs for a key; None among them: it is null or missing.

        Args:
            key: dotted, such as `dataset.limit`.
        """
        values: dict[str, Any] = {}
        for trial in self.trials:
            value = dotted_keys.get(trial.config, key)
            # By its text, because a value may be a list.
            values.setdefault(repr(value), value)
        return list(values.values())

    @cached_property
    def places(self) -> list[TrainedOn]:
        """The different devices that trained the jobs, with their settings; empty: not recorded."""
        # Without what differs between jobs on one machine: the topic on computation sums it up over all jobs.
        places = (job.trained_on for jobs in self.jobs.values() for job in jobs)
        alone = (replace(place, form="", training_run="", packed_with=()) for place in places if place is not None)
        return list({repr(place): place for place in alone if place.device}.values())


def words(values: Sequence[Any]) -> str:
    """Join values: `a`, `a and b`, `a, b and c`; empty: no values."""
    return sentences.listed_words([str(value) for value in values]) if values else ""
