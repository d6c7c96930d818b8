"""Notes on MLflow's pages: of a sweep's run, and of the experiment.

MLflow renders them as Markdown without tables. Of an experiment's note it shows the first lines above every list of
runs, the rest on a click: those lines are the verdict (3.17.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tunerun.comparison.renderers.note import escaped
from tunerun.tracking.trial import fenced
from tunerun.tracking.view import answers_view, runs_path

if TYPE_CHECKING:
    from tunerun.comparison.table import ComparisonTable

MAX_EXPERIMENT_NOTE = 20_000
"""Longest value of an experiment's tag in MLflow, in characters."""


@dataclass(frozen=True)
class SweepLine:
    """The line of one sweep in an experiment's note.

    Attributes:
        sweep: its id.
        created_at: in seconds since 1970 (UTC).
        sentence: the verdict in one sentence.
        note: the note of the sweep's own run.
        run_id: of that run; None: MLflow does not have it yet.
        has_report: whether that run has a report.
    """

    sweep: str
    created_at: float
    sentence: str
    note: str
    run_id: str | None
    has_report: bool = False


def sweep_note(table: ComparisonTable, interrupted: str | None) -> str:
    """Return the note of a sweep's run: the sentence, the points and the baselines.

    Args:
        table: of the sweep's verdict.
        interrupted: the command that continues the sweep; None: it is complete, or a process runs it.
    """
    if interrupted is None:
        return table.render("note")
    how = "\n".join(["Interrupted; the same command continues it:", "", *fenced(interrupted)])
    return f"{table.render('note')}\n\n{how}"


def experiment_note(experiment_id: str, lines: Sequence[SweepLine]) -> str:
    """Return the newest sweep's note with the links to its views, then a line for each earlier sweep.

    Args:
        experiment_id: MLflow's id.
        lines: one for each sweep, the newest first; not empty.
    """
    newest, *earlier = lines
    paths = {
        "runs": runs_path(experiment_id, newest.sweep),
        "charts": runs_path(experiment_id, newest.sweep, mode="CHART"),
        "answers side by side": runs_path(experiment_id, answers_view(newest.sweep), mode="ARTIFACT"),
    }
    if newest.run_id is not None:
        run = f"#/experiments/{experiment_id}/runs/{newest.run_id}"
        paths |= {"report": f"{run}/artifacts/report.html"} if newest.has_report else {"summary": run}
    links = ", ".join(f"[{name}]({path})" for name, path in paths.items())
    note = f"{newest.note}\n\nSweep {escaped(newest.sweep)} of {_day(newest)}: {links}"

    title = "\n\n**Earlier sweeps**\n\n"
    for position, line in enumerate(earlier):
        link = runs_path(experiment_id, line.sweep)
        added = f"- {_day(line)} [{escaped(line.sweep)}]({link}): {escaped(line.sentence)}"
        added = (title if position == 0 else "\n") + added
        rest = f"\n- and {len(earlier) - position} more"
        if len(note) + len(added) + len(rest) > MAX_EXPERIMENT_NOTE:
            return note + rest
        note += added
    return note


def _day(line: SweepLine) -> str:
    return datetime.fromtimestamp(line.created_at, UTC).date().isoformat()
