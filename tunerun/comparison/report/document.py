"""A report as plain values, made from a verdict and its sources: pure, and the same for the same input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunerun import __version__
from tunerun.comparison import numbers
from tunerun.comparison.labels import short_names, text
from tunerun.comparison.report.answers import PackedAnswers, pack_answers
from tunerun.comparison.report.plots import (
    AxisPlot,
    CurveLine,
    IntervalPlot,
    axis_plots,
    curve_lines,
    interval_plots,
)
from tunerun.comparison.report.sources import ConfusionTable, ReportSources
from tunerun.comparison.results import Outcome, Verdict

OUTCOMES = {
    Outcome.BETTER: "better",
    Outcome.EQUIVALENT: "equivalent",
    Outcome.CANNOT_TELL: "cannot tell",
    Outcome.WORSE: "worse",
    Outcome.NONE: "no comparison",
}
"""An outcome as the badge beside the sentence calls it."""


@dataclass(frozen=True)
class WordTable:
    """A table of words: a heading for each column, and rows of as many cells; the first cell is the row's heading."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RerunCommand:
    """How to run a sweep again."""

    sweep: str
    command: str
    version: str
    commit: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """Everything that the page shows.

    Attributes:
        outcome: the verdict's, in words.
        facts: of the comparison, as (what, value); data_facts: of the data.
        interval_table, curve_table, axis_table: the plots in words, for readers who do not see them.
        points_table: what each point sets.
        answers: what the page's script shows row by row.
        answer_rows: number of held-out rows, of which `answers` may have fewer.
    """

    title: str
    held_out: str
    outcome: str
    sentence: str
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    intervals: tuple[IntervalPlot, ...]
    interval_table: WordTable | None
    curves: tuple[CurveLine, ...]
    curve_table: WordTable | None
    axes: tuple[AxisPlot, ...]
    axis_table: WordTable | None
    confusion: tuple[ConfusionTable, ...]
    answers: PackedAnswers
    answer_rows: int
    right_rule: str
    data_facts: tuple[tuple[str, str], ...]
    findings: tuple[str, ...]
    points_table: WordTable
    configs: tuple[tuple[str, str], ...]
    runs: tuple[RerunCommand, ...]
    version: str

    def drawn(self) -> dict[str, Any]:
        """Return what the page's script reads, as JSON values."""
        return {
            "intervals": [asdict(plot) for plot in self.intervals],
            "axes": [asdict(plot) for plot in self.axes],
            "curves": [asdict(line) for line in self.curves],
            "answers": self.answers.document,
        }


def build(verdict: Verdict, sources: ReportSources) -> Document:
    """Make the report of a verdict.

    Args:
        sources: from `reading.read_sources`, of the same verdict.
    """
    intervals, curves, axes = interval_plots(verdict), curve_lines(verdict, sources), axis_plots(verdict, sources)
    # Two sweeps of one experiment have one title.
    names = dict.fromkeys(sweep.experiment for sweep in verdict.sweeps)

    decision = verdict.decision
    points, trials = numbers.counted(len(verdict.points), "point"), numbers.counted(len(verdict.trials), "trial")
    facts = [("Compared", f"{points}, {trials}")]
    if decision.rows:
        clusters = "" if decision.clusters is None else f" in {numbers.counted(decision.clusters, 'cluster')}"
        facts.append(("Held out", f"{numbers.counted(decision.rows, 'row')}{clusters} ({verdict.held_out})"))
    if verdict.metric is not None:
        facts.append(("Decided by", verdict.metric))

    runs = []
    for sweep in verdict.sweeps:
        document = sweep.document
        code = document.get("code") or {}
        version, commit = document.get("version", "not recorded"), code.get("commit", "no Git commit was found")
        runs.append(RerunCommand(sweep.id, sweep.command, str(version), str(commit), tuple(code.get("changed", ()))))
    return Document(
        title=" and ".join(names),
        held_out=verdict.held_out,
        outcome=OUTCOMES[decision.outcome],
        sentence=verdict.sentence,
        notes=verdict.notes,
        facts=tuple(facts),
        intervals=intervals,
        interval_table=_interval_table(intervals),
        curves=curves,
        curve_table=_curve_table(curves),
        axes=axes,
        axis_table=_axis_table(axes),
        confusion=sources.confusion,
        answers=pack_answers(verdict, sources),
        answer_rows=len(sources.rows),
        right_rule=sources.right_rule,
        data_facts=sources.facts,
        findings=sources.findings,
        points_table=_points_table(verdict),
        configs=sources.configs,
        runs=tuple(runs),
        version=__version__,
    )


def _interval_table(plots: Sequence[IntervalPlot]) -> WordTable | None:
    """All plots of intervals as one table: a row for each mark, a column for each plot."""
    if not plots:
        return None
    # A point that lacks a measure is missing from that plot, so the rows come from all plots together.
    names = list(dict.fromkeys(mark.name for plot in plots for mark in plot.marks))
    words = [{mark.name: mark.words for mark in plot.marks} for plot in plots]
    rows = tuple((name, *(column.get(name, numbers.UNKNOWN) for column in words)) for name in names)
    return WordTable("Values and intervals", ("point or baseline", *(plot.name for plot in plots)), rows)


def _curve_table(curves: Sequence[CurveLine]) -> WordTable | None:
    if not curves:
        return None
    rows = []
    for line in curves:
        # `min` of (epoch, loss) by the loss: the earliest of equal epochs, as in the advice.
        losses, held_out = [y for _, y in line.training], line.validation
        best = min(held_out, key=lambda place: place[1], default=None)
        rows.append(
            (
                line.name,
                numbers.loss(losses[0] if losses else None),
                numbers.loss(losses[-1] if losses else None),
                numbers.loss(held_out[-1][1] if held_out else None),
                numbers.UNKNOWN if best is None else f"{numbers.loss(best[1])} after {best[0]:g} epochs",
                line.advice,
            )
        )
    measures = ("training loss, first", "training loss, last", "validation loss, last", "validation loss, lowest")
    head = ("point", *measures, "advice")
    return WordTable("Losses in nats per output token", head, tuple(rows))


def _axis_table(plots: Sequence[AxisPlot]) -> WordTable | None:
    if not plots:
        return None
    rows = tuple(
        (plot.name, plot.categories[int(p.at)] if plot.categories else f"{p.at:g}", series.name, p.mark.words)
        for plot in plots
        for series in plot.series
        for p in series.places
    )
    return WordTable("Measures by axis", ("plot", "at", "other settings", "value"), rows)


def _points_table(verdict: Verdict) -> WordTable:
    keys = list(dict.fromkeys(key for point in verdict.points for key in point.overrides))
    names = short_names(keys)
    # Trials are numbered in each sweep, so with several sweeps a number alone does not say which is meant.
    has_sweeps = len(verdict.sweeps) > 1
    rows = tuple(
        (
            str(point.number),
            *([verdict.trials[point.trials[0]].sweep] if has_sweeps else []),
            *(text(point.overrides[key]) if key in point.overrides else numbers.UNKNOWN for key in keys),
            ", ".join(str(verdict.trials[number].record.number) for number in point.trials),
            ", ".join(dict.fromkeys(str(verdict.trials[number].record.settings.seed) for number in point.trials)),
        )
        for point in verdict.points
    )
    return WordTable(
        "What each point sets",
        ("point", *(["sweep"] * has_sweeps), *(names[key] for key in keys), "trials", "seeds"),
        rows,
    )
