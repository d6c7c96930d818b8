"""The sources of a report, read from a ledger on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.comparison import verdicts
from tests.comparison.sweeps import Trained, frozen
from tunerun.comparison.judgement import judge
from tunerun.comparison.renderers import report
from tunerun.comparison.report import read_sources
from tunerun.comparison.results import Measure, Verdict
from tunerun.comparison.table import ComparisonTable
from tunerun.examples import Example, ExampleSet
from tunerun.job import JobState, JobStatus, Snapshot, TemplateText, TuningHyperparameters, TuningRequest
from tunerun.ledger import LOSSES, BaselineRecord, Ledger
from tunerun.metrics import Unit

ROWS = tuple(Example(str(n), str(n + 1)) for n in range(24))
LABELS = tuple(Example(f"row {n}", ("refund", "card lost", "transfer")[n % 3]) for n in range(24))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "runs" / "ledger.db") as opened:
        yield opened


def write(ledger: Ledger, verdict: Verdict, rows: Sequence[Example] = ROWS, wrong: str = "no") -> None:
    """Freeze a verdict's sweep; every trial has trained, and it and every baseline has answered."""
    records = [trial.record for trial in verdict.trials]
    digests = {record.training: ROWS[:15] for record in records}
    digests |= {digest: tuple(rows) for record in records for digest in record.held_out.values()}
    sets = [ExampleSet(digest, "rows.json", examples) for digest, examples in digests.items()]
    baselines = [BaselineRecord(b.subject, b.name, "base") for b in verdict.baselines]
    for sweep in verdict.sweeps:
        ledger.freeze(sweep, [t.record for t in verdict.trials if t.sweep == sweep.id], sets, baselines)
    for place, record in enumerate(records):
        hyperparameters = TuningHyperparameters()
        request = TuningRequest(
            record.key, f"x-{place}", verdicts.trial(0, {}).tuned_model.model, hyperparameters, 0, TemplateText(), ()  # type: ignore[union-attr]
        )  # fmt: skip
        job = ledger.intend(request, "local", 1)
        snapshots = tuple(Snapshot(n, 1 + n // 9, 1 / n, float(n)) for n in range(1, record.steps + 1))
        ledger.record(
            job.id, JobStatus(JobState.SUCCEEDED, snapshots, {"validation/base_loss": 3.0, "validation/loss": 0.5})
        )
        answers = [row.output if n > place else wrong for n, row in enumerate(rows)]
        ledger.record_answers(record.key, record.held_out["validation"], record.asked, answers)
        ledger.record_answers(record.key, record.held_out["validation"], LOSSES, [0.5] * len(rows))
    for baseline in verdict.baselines:
        record = records[0]
        ledger.record_answers(baseline.subject, record.held_out["validation"], record.asked, [wrong] * len(rows))


def test_everything_that_a_ledger_has(ledger: Ledger) -> None:
    """Rows, answers and whether they are right, curves by epoch, facts and findings come from the ledger."""
    verdict = verdicts.demo_verdict()
    document = {
        "command": "tunerun run",
        "data": {"d": "39 different examples of train.json"},
        "warnings": ["dataset: rows 3 and 7 are near duplicates"],
        "clusters": {verdict.trials[0].record.held_out["validation"]: [*range(23), 0]},
    }
    verdict = replace(verdict, sweeps=(replace(verdict.sweep, document=document),))
    write(ledger, verdict)
    read = read_sources(ledger, verdict)
    assert read.rows == ROWS
    assert set(read.answers) == {t.record.key for t in verdict.trials} | {b.subject for b in verdict.baselines}
    assert sum(read.answers[verdict.trials[1].record.key].right) == 22
    assert read.right_rule == "An answer counts as right where eval/exact_match is 1 for it."
    curve = read.curves[verdict.trials[0].record.key]
    assert (len(curve.training), curve.training[-1][0]) == (verdicts.STEPS, 5)
    assert list(curve.validation) == [(0, 3.0), (5, 0.5)]
    assert read.training_rows[verdict.trials[0].record.key] == 15
    assert dict(read.facts) == {
        "Data": "39 different examples of train.json",
        "Training": "15 examples",
        "Held out, validation": "24 rows in 23 clusters",
        "Base model": "smollm2-135m",
    }
    assert read.findings == ("dataset: rows 3 and 7 are near duplicates",)
    assert read.confusion == ()
    assert read.configs[0][1].startswith("name: next_number\nseed: 0\n")


def test_labels_have_a_confusion_matrix(ledger: Ledger) -> None:
    """The advised point and the hardest baseline have one each, with a column for answers that are not a label."""
    verdict = verdicts.demo_verdict()
    write(ledger, verdict, LABELS, wrong="I cannot say")
    point, base = read_sources(ledger, verdict).confusion
    assert (point.name, base.name) == ("Point 0: learning_rate 0.001, 5 epochs", "base+4")
    assert base.expected == ("card lost", "refund", "transfer")
    assert base.answered == (*base.expected, "(anything else)")
    assert base.counts == ((0, 0, 0, 8),) * 3
    assert point.counts[0] == (8, 0, 0, 0)


def test_with_a_corpus_metric_equal_answers_are_right(ledger: Ledger) -> None:
    """A corpus metric has no score of a row, and the report says by which rule an answer counts as right."""
    verdict = verdicts.demo_verdict()
    measures = (Measure("eval/chrf", Unit.HUNDRED, higher_is_better=True),)
    verdict = replace(verdict, measures=measures, decision=replace(verdict.decision, metric="eval/chrf"))
    write(ledger, verdict)
    read = read_sources(ledger, verdict)
    assert read.right_rule.startswith("An answer counts as right here where it equals the expected one;")
    assert sum(read.answers[verdict.trials[0].record.key].right) == 23


@pytest.mark.parametrize("make", [verdicts.incomplete_verdict, verdicts.nothing_held_out_verdict])
def test_a_ledger_without_answers(ledger: Ledger, make: object) -> None:
    """A sweep that has begun, or that holds nothing out, has a page too."""
    assert callable(make)
    verdict: Verdict = make()
    records = [trial.record for trial in verdict.trials]
    digests = {digest for record in records for digest in (record.training, *record.held_out.values())}
    ledger.freeze(verdict.sweep, records, [ExampleSet(digest, "rows.json", ROWS) for digest in sorted(digests)])
    read = read_sources(ledger, verdict)
    assert (read.answers, read.curves) == ({}, {})
    assert verdict.sentence[:20] in report.page(ComparisonTable.of(verdict), ledger)


def test_a_report_of_a_real_verdict(tmp_path: Path) -> None:
    """From answers in a ledger to the page: the sentence, the plots and the answers of trials of two templates."""
    trials = [Trained("1" * 20 + "0" * 4), Trained("1" * 9 + "0" * 15, template="Question: {}")]
    lab = frozen(tmp_path, trials, {"base": "0" * 24}, rows=["same", "same"])
    verdict = judge(lab.ledger, lab.sweep)
    read = read_sources(lab.ledger, verdict)
    assert [sum(read.answers[trial.key].right) for trial in lab.trials] == [20, 9]
    page = report.page(ComparisonTable.of(verdict), lab.ledger)
    assert verdict.sentence.split(":")[0] in page
    other = frozen(tmp_path / "other", trials, {"base": "0" * 24}, rows=["these", "those"])
    assert set(read_sources(other.ledger, judge(other.ledger, other.sweep)).answers) == {
        other.trials[0].key,
        other.trials[0].baselines[0],
    }


def test_a_page_names_no_place_on_the_machine(ledger: Ledger) -> None:
    """Folders of runs and adapters and the tracker's address are not in it; the same ledger gives the same bytes."""
    verdict = verdicts.demo_verdict()
    local = {"paths": {"runs": "/home/me/runs"}, "dataset": {"path": "/home/me/train.json", "test": {"path": None}}}
    trials = tuple(replace(t, record=replace(t.record, config={**t.record.config, **local})) for t in verdict.trials)
    document = {**verdict.sweep.document, "warnings": ["/home/me/train.json: 15 examples to train on"]}
    verdict = replace(verdict, trials=trials, sweeps=(replace(verdict.sweep, document=document),))
    write(ledger, verdict)
    pages = [report.files(ComparisonTable.of(verdict), ledger)["report.html"] for _ in range(2)]
    assert pages[0] == pages[1]
    assert b"/home/me" not in pages[0]
    assert b"train.json: 15 examples to train on" in pages[0]


def test_two_sweeps_are_read_together(ledger: Ledger) -> None:
    """The report has the answers and curves of both, and a config of each."""
    verdict = verdicts.two_sweeps_verdict()
    write(ledger, verdict)
    read = read_sources(ledger, verdict)
    assert len(read.configs) == 2
    assert set(read.curves) == {t.record.key for t in verdict.trials}
