"""What a report shows beside a verdict, made by hand for the verdicts of `tests.comparison.verdicts`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from tunerun.comparison.report import ConfusionTable, LossCurve, ReportSources, ShownAnswers
from tunerun.comparison.results import Verdict
from tunerun.examples import Example

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

HOSTILE = (
    "</script><script>window.isBroken = true</script>",
    "<img src=x onerror='window.isBroken = true'>",
    "right \u202eto left\u202c, nul \x00, escape \x1b[31m, half a character \ud800, a family \U0001f468\u200d\U0001f469",
    "{{ 7 * 7 }} <!-- ]]> &lt;b&gt; ' \" `",
)
"""What a model may answer: text that a careless page runs, and characters that a careless page hides."""


def held_out(rows: int) -> tuple[Example, ...]:
    return tuple(Example(WORDS[n % 12] + f" {n // 12}" * (n > 11), WORDS[n % 12 + 1]) for n in range(rows))


def answered(rows: Sequence[Example], right: int, wrong: str) -> ShownAnswers:
    """Answers of which a number of rows are right, spread over all of them; the wrong ones are all the same text."""
    hits = {math.floor(n * len(rows) / right) for n in range(right)} if right else set()
    return ShownAnswers(
        tuple(row.output if n in hits else wrong for n, row in enumerate(rows)),
        tuple(n in hits for n in range(len(rows))),
    )


def unlike(sources: ReportSources) -> ReportSources:
    """Answers with a different wrong text for each row and model: digits that can hardly be compressed."""
    answers = {
        subject: replace(
            each,
            texts=tuple(
                text if right else hashlib.sha256(f"{subject} {n}".encode()).hexdigest()
                for n, (text, right) in enumerate(zip(each.texts, each.right, strict=True))
            ),
        )
        for subject, each in sources.answers.items()
    }
    return replace(sources, answers=answers)


def curve(epochs: int, rate: float, steps_in_an_epoch: int = 8) -> LossCurve:
    """A loss that falls, and a validation loss that rises again after the fourth epoch."""
    steps = [(n + 1) / steps_in_an_epoch for n in range(epochs * steps_in_an_epoch)]
    training = tuple((at, 3 * math.exp(-at * (0.5 + 300 * rate)) + 0.01 + 0.02 * math.sin(5 * at) ** 2) for at in steps)
    validation = tuple((float(n), 0.6 + 2 * math.exp(-n) + 0.03 * max(0, n - 4)) for n in range(1, epochs + 1))
    return LossCurve(training, validation)


def sources(verdict: Verdict, wrong: Sequence[str] = ("I do not know", "two", "")) -> ReportSources:
    """Answers that have as many rows right as the verdict says; curves of all trials that have succeeded."""
    rows = held_out(verdict.decision.rows)
    metric = verdict.metric or ""
    answers = {}
    arms = [(t.record.key, verdict.points[t.point].estimates) for t in verdict.trials if t.tuned_model]
    arms += [(b.subject, b.estimates) for b in verdict.baselines]
    for position, (subject, estimates) in enumerate(arms):
        if metric in estimates:
            right = round(estimates[metric].value * len(rows))
            answers[subject] = answered(rows, right, wrong[position % len(wrong)])
    curves = {
        t.record.key: curve(int(t.record.overrides.get("hyperparameters.epoch_count", 5) or 5), 0.0005 + 0.0001 * n)
        for n, t in enumerate(verdict.trials)
        if t.tuned_model
    }
    labels = ("refund", "card lost", "transfer")
    return ReportSources(
        rows=rows,
        answers=answers,
        right_rule="An answer is right where eval/exact_match is 1.",
        curves=curves,
        training_rows={t.record.key: 15 for t in verdict.trials},
        configs=tuple((s.id, "name: next_number\nhyperparameters:\n  epoch_count: 5\n") for s in verdict.sweeps),
        facts=(("Training", "15 examples"), ("Held out", f"{len(rows)} rows (validation)"), ("File", "train.json")),
        findings=("dataset: rows 3 and 7 are near duplicates of each other",),
        confusion=(
            ConfusionTable("point 0", labels, labels, ((7, 1, 0), (0, 8, 0), (2, 0, 6))),
            ConfusionTable("base", labels, (*labels, "anything else"), ((3, 1, 0, 4), (0, 8, 0, 0), (2, 0, 3, 3))),
        ),
    )
