"""The results of two records side by side: verdicts, measures, answers, losses, adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tunerun.comparison.judgement import TEST, VALIDATION, judge
from tunerun.comparison.knowledge import result, trial_result
from tunerun.comparison.numbers import counted
from tunerun.comparison.results import TrialResult
from tunerun.errors import InputError, MetricError
from tunerun.job import EpochLoss, Snapshot
from tunerun.ledger import LOSSES, JobRecord, Ledger, TrialRecord
from tunerun.planning.changes import differences
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.rows import Row, rows_of
from tunerun.record.difference.sections import DifferenceSection, SideBySide, collected, one_line
from tunerun.record.sources import OpenRecord

MOST_SHOWN = 3
"""Rows with other answers that people see, of one pair."""

MOST_PAIRS = 3
"""Pairs of which people see answers and curves; `--json` has all of them."""

MOST_IN_DOCUMENT = 100
"""Rows with other answers that `--json` lists for one pair."""

SECONDS = "train/seconds"
COSTS = (SECONDS, "train/peak_bytes")
"""Measures that differ each time: they are not results."""


@dataclass
class _Found:
    """What differs so far; `lines` of trials that come after the first few are counted only."""

    values: list[tuple[SideBySide, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)


def results_section(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair], *, is_sweep: bool) -> DifferenceSection:
    """The results of paired trials; of two sweeps their verdicts, too."""
    found = _Found()
    verdicts: tuple[SideBySide, ...] = ()
    if is_sweep:
        verdicts = tuple(SideBySide(each.name, each.old, each.new) for each in differences(_verdicts(a), _verdicts(b)))
    shown, hidden = 0, 0
    for pair in pairs:
        lines, document = _pair(a.ledger, b.ledger, pair, found, is_alone=len(pairs) == 1)
        found.documents.append(document)
        if not lines:
            continue
        if len(pairs) == 1:
            found.lines += lines
        elif shown < MOST_PAIRS:
            shown += 1
            found.lines += [f"{pair.name}:", *(f"  {line}" for line in lines)]
        else:
            hidden += 1
    if hidden:
        found.lines.append(f"... and {hidden} more trials with other answers or losses; --json has all of them")
    bits = [document["same_adapter"] for document in found.documents if document["same_adapter"] is not None]
    if len(pairs) > 1:
        found.lines[:0] = [*_totals(found.documents), *([] if all(bits) else [_bits(bits)])]
    values = (*verdicts, *collected(found.values, len(pairs)))
    return DifferenceSection("results", values, tuple(found.lines), {"trials": found.documents})


def _totals(documents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The answers of all pairs together, where some differ."""
    for name in dict.fromkeys(name for document in documents for name in document["answers"]):
        counts = [document["answers"][name] for document in documents if name in document["answers"]]
        equal, rows = sum(each["equal"] for each in counts), sum(each["rows"] for each in counts)
        if equal < rows:
            yield f"answers ({name}), all trials: {equal:,} of {rows:,} equal"


def _bits(same: Sequence[bool]) -> str:
    return f"adapters: {sum(same)} of {counted(len(same), 'pair')} have the same bits"


def _verdicts(record: OpenRecord) -> dict[str, Any]:
    """The sentence of a sweep's verdict, and what its baselines reach; of the test set too, where it was opened."""
    found: dict[str, Any] = {}
    sets = [VALIDATION, *([TEST] if record.ledger.openings(record.sweep.id) else [])]
    for name in sets:
        try:
            verdict = judge(record.ledger, record.sweep, held_out=name)
        except (InputError, MetricError) as error:
            found[f"verdict ({name})"] = f"cannot be computed: {error}"
            continue
        found[f"verdict ({name})"] = verdict.sentence
        for baseline in verdict.baselines:
            found |= {f"{baseline.name}, {measure} ({name})": value for measure, value in baseline.metrics.items()}
    return found


def _pair(a: Ledger, b: Ledger, pair: TrialPair, found: _Found, *, is_alone: bool) -> tuple[list[str], dict[str, Any]]:
    """What differs in the results of a pair: values go to `found`, the rest is returned as lines and JSON values."""
    job_a, job_b = a.job(pair.a.key), b.job(pair.b.key)
    result_a, result_b = _measured(a, pair.a, job_a), _measured(b, pair.b, job_b)
    values = [SideBySide("state", result_a.state.value, result_b.state.value)]
    names = dict.fromkeys([*result_a.metrics, *result_b.metrics])
    values += [
        SideBySide(name, result_a.metrics.get(name), result_b.metrics.get(name)) for name in names if name not in COSTS
    ]
    if is_alone:
        values.append(SideBySide("adapter", _weights(job_a), _weights(job_b)))
    values.append(SideBySide("failure", _failure(job_a), _failure(job_b)))
    found.values += [(value, pair.name) for value in values if repr(value.a) != repr(value.b)]
    lines = list(_loss_lines(a, b, job_a, job_b))
    document: dict[str, Any] = {
        "a": pair.a.number,
        "b": pair.b.number,
        "adapter": {"a": _weights(job_a), "b": _weights(job_b)},
        "same_adapter": _same(_weights(job_a), _weights(job_b)),
        "seconds": [each.metrics.get(SECONDS) for each in (result_a, result_b)],
        "losses": list(lines),
        "answers": {},
    }
    for name in dict.fromkeys([*pair.a.held_out, *pair.b.held_out]):
        compared = _answers(a, b, pair, name)
        if compared is not None:
            document["answers"][name] = compared.to_json()
            lines += [] if compared.is_same else compared.lines(name)
    return lines, document


def _measured(ledger: Ledger, trial: TrialRecord, job: JobRecord | None) -> TrialResult:
    """A trial's measures; where a metric of it is not known here, those that the backend measured."""
    try:
        return trial_result(ledger, trial)
    except (InputError, MetricError):
        return result(trial, job, () if job is None else ledger.snapshots(job.id), {})


def _same(a: object, b: object) -> bool | None:
    """None: one of them is not known."""
    return None if a is None or b is None else a == b


def _weights(job: JobRecord | None) -> str | None:
    return None if job is None or job.tuned_model is None else job.tuned_model.weights


def _failure(job: JobRecord | None) -> str | None:
    return None if job is None or job.failure is None else f"{job.failure.kind}: {job.failure.message}"


# Losses


def _loss_lines(a: Ledger, b: Ledger, job_a: JobRecord | None, job_b: JobRecord | None) -> Iterator[str]:
    if job_a is None or job_b is None:
        return
    curve_a, curve_b = a.snapshots(job_a.id), b.snapshots(job_b.id)
    if line := _curves("training loss", "step", _by_step(curve_a), _by_step(curve_b)):
        yield line
    epochs_a, epochs_b = a.epoch_losses(job_a.id), b.epoch_losses(job_b.id)
    if line := _curves("validation loss", "epoch", _by_epoch(epochs_a), _by_epoch(epochs_b)):
        yield line


def _by_step(curve: Sequence[Snapshot]) -> dict[int, float]:
    return {snapshot.step: snapshot.mean_loss for snapshot in curve}


def _by_epoch(curve: Sequence[EpochLoss]) -> dict[int, float]:
    return {one.epoch: one.loss for one in curve}


def _curves(what: str, unit: str, a: Mapping[int, float], b: Mapping[int, float]) -> str:
    """Where two curves part, and how far they are apart where both are; empty: they are the same."""
    both = sorted(a.keys() & b.keys())
    different = [place for place in both if repr(a[place]) != repr(b[place])]
    lengths = "" if a.keys() == b.keys() else f"; {len(a):,} {unit}s in A, {len(b):,} in B"
    if not different:
        return f"{what}: the same in {len(both):,} {unit}s{lengths}" if lengths else ""
    first = different[0]
    largest = max(abs(a[place] - b[place]) for place in different)
    return (
        f"{what}: {len(both) - len(different):,} of {len(both):,} {unit}s equal; first at {unit} {first}: "
        f"{a[first]:.6g} | {b[first]:.6g}; largest difference {largest:.3g}{lengths}"
    )


# Answers


@dataclass(frozen=True)
class AnswersDifference:
    """The answers of two trials to the rows that both were asked.

    Attributes:
        rows: that both have. equal: of these, with the same answer.
        others: input, expected output, answer in A, answer in B.
        note: what to know of the comparison; empty: nothing.
    """

    rows: int
    equal: int
    others: tuple[tuple[str, str, str, str], ...]
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Whether all answers are, and to all rows."""
        return not self.others and not self.note

    def lines(self, name: str) -> list[str]:
        """For people: the counts, and the first rows that differ."""
        found = [f"answers ({name}): {self.equal:,} of {self.rows:,} equal{self.note}"]
        for text_input, expected, old, new in self.others[:MOST_SHOWN]:
            found.append(f"  {one_line(text_input, 50)} (expected {one_line(expected, 30)})")
            found.append(f"    A {one_line(old)}")
            found.append(f"    B {one_line(new)}")
        if len(self.others) > MOST_SHOWN:
            found.append(f"  ... and {len(self.others) - MOST_SHOWN:,} more")
        return found

    def to_json(self) -> dict[str, Any]:
        """The counts, and the first rows that differ."""
        first = [
            {"text_input": text_input, "expected": expected, "a": old, "b": new}
            for text_input, expected, old, new in islice(self.others, MOST_IN_DOCUMENT)
        ]
        more = {"note": self.note.strip("; ")} if self.note else {}
        return {"rows": self.rows, "equal": self.equal, "first_different": first, **more}


def _answers(a: Ledger, b: Ledger, pair: TrialPair, name: str) -> AnswersDifference | None:
    """None: one of them was not asked."""
    set_a, set_b = pair.a.held_out.get(name), pair.b.held_out.get(name)
    if set_a is None or set_b is None:
        return None
    for way_a, way_b in ((pair.a.asked, pair.b.asked), (LOSSES, LOSSES)):
        answers_a, answers_b = a.answers(pair.a.key, set_a, way_a), b.answers(pair.b.key, set_b, way_b)
        if answers_a is not None and answers_b is not None:
            said_a, said_b = list(map(str, answers_a.values)), list(map(str, answers_b.values))
            note = "" if way_a == way_b else "; they were asked in other ways"
            return _to_same_rows(rows_of(a.example_set(set_a)), said_a, rows_of(b.example_set(set_b)), said_b, note)
    return None


def _to_same_rows(
    rows_a: Sequence[Row], said_a: Sequence[str], rows_b: Sequence[Row], said_b: Sequence[str], note: str
) -> AnswersDifference:
    """The answers to the rows that both were asked; rows of another template are the same by their outputs' order."""
    if [out for _, out in rows_a] == [out for _, out in rows_b]:
        answered = list(zip(rows_a, said_a, said_b, strict=False))
    else:
        others = dict(zip(rows_b, said_b, strict=False))
        answered = [(row, said, others[row]) for row, said in zip(rows_a, said_a, strict=False) if row in others]
        note += f"; {len(rows_a):,} rows were asked in A, {len(rows_b):,} in B"
    different = tuple((*row, old, new) for row, old, new in answered if old != new)
    return AnswersDifference(len(answered), len(answered) - len(different), different, note)
