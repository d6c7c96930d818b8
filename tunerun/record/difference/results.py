"""The results of two records side by side: verdicts, measures, answers, losses, adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunerun.comparison.judgement import TEST, VALIDATION, judge
from tunerun.comparison.knowledge import result, trial_result
from tunerun.comparison.numbers import counted
from tunerun.comparison.results import TrialResult
from tunerun.errors import InputError, MetricError
from tunerun.ledger import LOSSES, JobRecord, Ledger, TrialRecord
from tunerun.planning.changes import differences
from tunerun.record.difference.pairs import TrialPair
from tunerun.record.difference.rows import rows_of
from tunerun.record.difference.sections import DifferenceSection, SideBySide, collected, one_line
from tunerun.record.sources import OpenRecord

_MOST_SHOWN = 3
"""Rows with other answers in the text output, for each pair."""

_MOST_PAIRS = 3
"""Pairs with their answers and curves in the text output; `--json` has all pairs."""

_MOST_IN_DOCUMENT = 100
"""Rows with other answers in `--json`, for each pair."""

SECONDS = "train/seconds"
_COSTS = (SECONDS, "train/peak_bytes")
"""Measures that differ each time: they are not results."""


def results_section(a: OpenRecord, b: OpenRecord, pairs: Sequence[TrialPair], *, is_sweep: bool) -> DifferenceSection:
    """Compare the results of paired trials.

    Args:
        a, b: the two records.
        pairs: of their trials.
        is_sweep: whether both records are sweeps, so that their verdicts are compared, too.
    """
    values: list[tuple[SideBySide, str]] = []
    lines: list[str] = []
    documents: list[dict[str, Any]] = []
    differing = 0
    for pair in pairs:
        values_of_pair, lines_of_pair, document = _pair(a.ledger, b.ledger, pair, is_alone=len(pairs) == 1)
        values += [(value, pair.name) for value in values_of_pair]
        documents.append(document)
        differing += bool(lines_of_pair)
        if len(pairs) == 1:
            lines += lines_of_pair
        elif lines_of_pair and differing <= _MOST_PAIRS:
            lines += [f"{pair.name}:", *(f"  {line}" for line in lines_of_pair)]
    if len(pairs) > 1 and differing > _MOST_PAIRS:
        hidden = differing - _MOST_PAIRS
        lines.append(f"... and {hidden} more trials with other answers or losses; --json has all of them")

    # Totals come above the lines of single trials, of which most are left out.
    if len(pairs) > 1:
        totals = []
        for name in dict.fromkeys(name for document in documents for name in document["answers"]):
            counts = [document["answers"][name] for document in documents if name in document["answers"]]
            equal, rows = sum(each["equal"] for each in counts), sum(each["rows"] for each in counts)
            if equal < rows:
                totals.append(f"answers ({name}), all trials: {equal:,} of {rows:,} equal")
        same = [document["same_adapter"] for document in documents if document["same_adapter"] is not None]
        if not all(same):
            totals.append(f"adapters: {sum(same)} of {counted(len(same), 'pair')} have the same bits")
        lines[:0] = totals
    verdicts = differences(_verdicts(a), _verdicts(b)) if is_sweep else ()
    both = [SideBySide(each.name, each.old, each.new) for each in verdicts]
    return DifferenceSection("results", (*both, *collected(values, len(pairs))), tuple(lines), {"trials": documents})


def _verdicts(record: OpenRecord) -> dict[str, Any]:
    """The sentence of a sweep's verdict and the baselines' measures, on each set that was measured."""
    values: dict[str, Any] = {}
    for name in (VALIDATION, *([TEST] if record.ledger.openings(record.sweep.id) else [])):
        try:
            verdict = judge(record.ledger, record.sweep, held_out=name)
        # Such as a metric that only another version has: rows, answers and losses can still be compared.
        except (InputError, MetricError) as error:
            values[f"verdict ({name})"] = f"cannot be computed: {error}"
            continue
        values[f"verdict ({name})"] = verdict.sentence
        for baseline in verdict.baselines:
            values |= {f"{baseline.name}, {measure} ({name})": value for measure, value in baseline.metrics.items()}
    return values


def _pair(
    a: Ledger, b: Ledger, pair: TrialPair, *, is_alone: bool
) -> tuple[list[SideBySide], list[str], dict[str, Any]]:
    """Compare the results of two trials.

    Args:
        a, b: the ledgers of the two trials.
        pair: the trials.
        is_alone: whether it is the only pair, so that the digests of its adapters are values.

    Returns:
        The values that differ, the other differences as lines, and the entry of the pair in the JSON document.
    """
    jobs = a.job(pair.a.key), b.job(pair.b.key)
    result_a, result_b = _measured(a, pair.a, jobs[0]), _measured(b, pair.b, jobs[1])
    adapter_a, adapter_b = (None if j is None or j.tuned_model is None else j.tuned_model.weights for j in jobs)
    failure_a, failure_b = (
        None if job is None or job.failure is None else f"{job.failure.kind}: {job.failure.message}" for job in jobs
    )
    values = [SideBySide("state", result_a.state.value, result_b.state.value)]
    values += [
        SideBySide(name, result_a.metrics.get(name), result_b.metrics.get(name))
        for name in dict.fromkeys([*result_a.metrics, *result_b.metrics])
        if name not in _COSTS
    ]
    # Of many pairs the adapters are counted instead: a pair of digests for each would hide the measures.
    values += [SideBySide("adapter", adapter_a, adapter_b)] if is_alone else []
    values.append(SideBySide("failure", failure_a, failure_b))
    lines = [] if jobs[0] is None or jobs[1] is None else list(_loss_lines(a, b, jobs[0], jobs[1]))
    document: dict[str, Any] = {
        "a": pair.a.number,
        "b": pair.b.number,
        "adapter": {"a": adapter_a, "b": adapter_b},
        "same_adapter": None if adapter_a is None or adapter_b is None else adapter_a == adapter_b,
        "seconds": [each.metrics.get(SECONDS) for each in (result_a, result_b)],
        "losses": list(lines),  # a copy: lines about answers follow
        "answers": {},
    }
    for name in dict.fromkeys([*pair.a.held_out, *pair.b.held_out]):
        compared = AnswersDifference.of(a, b, pair, name)
        if compared is not None:
            document["answers"][name] = compared.to_json()
            lines += [] if compared.is_same else compared.lines(name)
    # By their texts, because NaN is not equal to itself: a diverged loss would differ from its own repetition.
    return [value for value in values if repr(value.a) != repr(value.b)], lines, document


def _measured(ledger: Ledger, trial: TrialRecord, job: JobRecord | None) -> TrialResult:
    """A trial's measures, or only those of its backend if one of its metrics is not known here."""
    try:
        return trial_result(ledger, trial)
    except (InputError, MetricError):
        return result(trial, job, () if job is None else ledger.snapshots(job.id), {})


def _loss_lines(a: Ledger, b: Ledger, job_a: JobRecord, job_b: JobRecord) -> Iterator[str]:
    """Describe where the loss curves of two jobs differ first, and by how much; no line for equal curves."""
    # Only places that both curves have are compared: one may end earlier, or have fewer epochs.
    steps = [{s.step: s.mean_loss for s in ledger.snapshots(job.id)} for ledger, job in ((a, job_a), (b, job_b))]
    epochs = [{e.epoch: e.loss for e in ledger.epoch_losses(job.id)} for ledger, job in ((a, job_a), (b, job_b))]
    for what, unit, (curve_a, curve_b) in (("training loss", "step", steps), ("validation loss", "epoch", epochs)):
        both = sorted(curve_a.keys() & curve_b.keys())
        different = [place for place in both if repr(curve_a[place]) != repr(curve_b[place])]
        lengths = ""
        if curve_a.keys() != curve_b.keys():
            lengths = f"; {len(curve_a):,} {unit}s in A, {len(curve_b):,} in B"
        if different:
            first = different[0]
            largest = max(abs(curve_a[place] - curve_b[place]) for place in different)
            yield (
                f"{what}: {len(both) - len(different):,} of {len(both):,} {unit}s equal; first at {unit} {first}: "
                f"{curve_a[first]:.6g} | {curve_b[first]:.6g}; largest difference {largest:.3g}{lengths}"
            )
        elif lengths:
            yield f"{what}: the same in {len(both):,} {unit}s{lengths}"


@dataclass(frozen=True)
class AnswersDifference:
    """The answers of two trials to the rows that both were asked.

    Attributes:
        rows: number of rows that both were asked.
        equal: number of these with the same answer.
        others: input, expected output, answer in A and answer in B of rows with another answer.
        note: a remark on the comparison; empty: none.
    """

    rows: int
    equal: int
    others: tuple[tuple[str, str, str, str], ...]
    note: str = ""

    @classmethod
    def of(cls, a: Ledger, b: Ledger, pair: TrialPair, name: str) -> AnswersDifference | None:
        """Compare the answers of two trials to a held-out set.

        Args:
            a, b: the ledgers of the two trials.
            pair: the trials.
            name: of the held-out set.

        Returns:
            The difference; None: one of the trials was not asked.
        """
        set_a, set_b = pair.a.held_out.get(name), pair.b.held_out.get(name)
        if set_a is None or set_b is None:
            return None
        for method_a, method_b in ((pair.a.asked, pair.b.asked), (LOSSES, LOSSES)):
            stored_a, stored_b = a.answers(pair.a.key, set_a, method_a), b.answers(pair.b.key, set_b, method_b)
            if stored_a is None or stored_b is None:
                continue
            note = "" if method_a == method_b else "; they were asked in other ways"
            answers_a, answers_b = map(str, stored_a.values), list(map(str, stored_b.values))
            rows_a, rows_b = rows_of(a.example_set(set_a)), rows_of(b.example_set(set_b))
            if [output for _, output in rows_a] == [output for _, output in rows_b]:
                # The same outputs in the same order are the same rows, even if another template rendered their inputs.
                answered = list(zip(rows_a, answers_a, answers_b, strict=False))
            else:
                others = dict(zip(rows_b, answers_b, strict=False))
                answered = [
                    (row, old, others[row]) for row, old in zip(rows_a, answers_a, strict=False) if row in others
                ]
                note += f"; {len(rows_a):,} rows were asked in A, {len(rows_b):,} in B"
            different = tuple((*row, old, new) for row, old, new in answered if old != new)
            return cls(len(answered), len(answered) - len(different), different, note)
        return None

    @property
    def is_same(self) -> bool:
        """Whether both trials gave the same answers to the same rows."""
        return not self.others and not self.note

    def lines(self, name: str) -> list[str]:
        """Return the numbers and the first rows that differ, for the text output.

        Args:
            name: of the held-out set.
        """
        lines = [f"answers ({name}): {self.equal:,} of {self.rows:,} equal{self.note}"]
        for text_input, expected, old, new in self.others[:_MOST_SHOWN]:
            lines.append(f"  {one_line(text_input, 50)} (expected {one_line(expected, 30)})")
            lines.append(f"    A {one_line(old)}")
            lines.append(f"    B {one_line(new)}")
        if len(self.others) > _MOST_SHOWN:
            lines.append(f"  ... and {len(self.others) - _MOST_SHOWN:,} more")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The numbers and the first rows that differ, as `diff --json` prints them."""
        first = [
            {"text_input": text_input, "expected": expected, "a": old, "b": new}
            for text_input, expected, old, new in islice(self.others, _MOST_IN_DOCUMENT)
        ]
        more = {"note": self.note.strip("; ")} if self.note else {}
        return {"rows": self.rows, "equal": self.equal, "first_different": first, **more}
