"""The comparison as pandas data frames; pandas is imported when one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from tunerun.comparison.table import ComparisonTable


def points_frame(table: ComparisonTable) -> pandas.DataFrame:
    """Return one row for each point and baseline, indexed by its number or name."""
    import pandas

    return pandas.DataFrame(table.flat(table.rows)).set_index("point")


def trials_frame(table: ComparisonTable) -> pandas.DataFrame:
    """Return one row for each trial: number, point, what it sets, state, all measures, tuned model."""
    import pandas

    # Two sweeps both have a trial 0, so with several the place among all trials is the index.
    several = len(table.verdict.sweeps) > 1
    rows = [
        {
            "trial": place if several else trial.record.number,
            **({"sweep": trial.sweep} if several else {}),
            "point": trial.point,
            **trial.record.overrides,
            "state": trial.state.value,
            **trial.metrics,
            "tuned_model": trial.tuned_model.name if trial.tuned_model else None,
        }
        for place, trial in enumerate(table.verdict.trials)
    ]
    return pandas.DataFrame(rows).set_index("trial")
