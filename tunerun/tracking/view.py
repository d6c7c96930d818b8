"""The view of a sweep that its link opens: columns, sort, filter, charts and groups, as MLflow's page keeps them.

MLflow has no API for columns or charts. Its page keeps a view that is shared as a tag of the experiment,
`mlflow.sharedViewState.KEY`, and a link with `viewStateShareKey=KEY` opens it; we write that tag. The format is not
documented (tried with mlflow 3.17.2): nothing but the look of the page may depend on it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tunerun.replicates import SEED
from tunerun.tracking.naming import metric_key, param_name
from tunerun.tracking.run_projection import EPOCH_LOSS, FrozenSweep, Standing, milliseconds, sweep_tag

if TYPE_CHECKING:
    from tunerun.comparison.results import Verdict

PRIMARY_METRIC_TAG = "mlflow.experiment.primaryMetric.name"
"""The metric whose chart comes first where no view is opened."""

VALIDATION_LOSS = "validation/loss"
MAX_RUNS_IN_CHARTS = 20
"""Bars and curves of a chart, the best first; the page offers 10, 20 or all, and hides the 11th run by default."""

_SECTION = "tunerun"


def runs_path(experiment_id: str, view: str | None = None, *, mode: str | None = None) -> str:
    """Return the path of an experiment's runs on MLflow's page.

    Args:
        experiment_id: MLflow's id.
        view: the key of a view that the experiment has; with an unknown one the page shows an error.
        mode: `CHART` or `ARTIFACT`; None: the list.
    """
    # Without `workflowType` the page has the menu for GenAI. A view is ignored as soon as a sort or a filter is beside
    # it in the link (3.17.2), so those are inside the view.
    path = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    if mode is not None:
        path += f"&compareRunsMode={mode}"
    return path if view is None else f"{path}&viewStateShareKey={quote(view)}"


def sorted_path(experiment_id: str, metric: str, *, ascending: bool) -> str:
    """Return the path of an experiment's runs without a view, sorted by a metric.

    Args:
        experiment_id: MLflow's id.
        metric: its name in the ledger; MLflow's may have other characters.
        ascending: whether less of it is better.
    """
    order = quote(f"metrics.`{metric_key(metric)}`")
    return f"{runs_path(experiment_id)}&orderByKey={order}&orderByAsc={str(ascending).lower()}"


def view_tags(sweep: FrozenSweep, verdict: Verdict, curves: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the experiment's tags that make a sweep's views; the key of the first is the sweep's id.

    Args:
        sweep: says what is varied.
        verdict: says which metric decides.
        curves: the metrics that are curves, by the chart that shows them together.
    """
    state = view_state(sweep, verdict, curves)
    tags = {
        _tag(sweep.id): _packed(sweep, sweep.id, state),
        # MLflow compares tables of runs only where they are not grouped.
        _tag(answers_view(sweep.id)): _packed(sweep, f"{sweep.id}: answers", {**state, "groupBy": None}),
    }
    if verdict.metric is not None:
        tags[PRIMARY_METRIC_TAG] = metric_key(verdict.metric)
    return tags


def answers_view(sweep_id: str) -> str:
    """Return the key of the view that shows the answers of a sweep's runs side by side."""
    return f"{sweep_id}-answers"


def _tag(key: str) -> str:
    return f"mlflow.sharedViewState.{key}"


def _packed(sweep: FrozenSweep, name: str, state: dict[str, Any]) -> str:
    # As MLflow's page writes it. A bare state would do, but only one with a name is listed under "Views" (3.17.2).
    time_ms = milliseconds(sweep.record.created_at)  # the sweep's, so that a rebuilt view is the same
    packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
    text = f"deflate;{base64.b64encode(packed).decode()}"
    return json.dumps({"name": name, "createdAt": time_ms, "updatedAt": time_ms, "state": text})


def view_state(sweep: FrozenSweep, verdict: Verdict, curves: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return what a sweep's view shows, in the words of MLflow's page.

    Args:
        sweep, verdict, curves: as for `view_tags`.
    """
    swept = list(dict.fromkeys(param_name(key) for key in sweep.varied if key != SEED))
    # The metrics to look at, the one that decides first.
    names = dict.fromkeys(metric_key(measure.name) for measure in verdict.measures)
    if any(VALIDATION_LOSS in trial.metrics for trial in verdict.trials):
        names.setdefault(VALIDATION_LOSS)
    if not names and any(EPOCH_LOSS in trial.metrics for trial in verdict.trials):
        names.setdefault(EPOCH_LOSS)
    metrics = list(names)
    # What decides and what the verdict says of it first: beside the assistant's panel there is room for little more.
    columns = [
        *(f"metrics.`{name}`" for name in metrics[:1]),
        *(f"tags.`tunerun.{name}`" for name in Standing.TAGS),
        *(f"params.`{name}`" for name in swept),
        *(f"metrics.`{name}`" for name in metrics[1:]),
        "tags.`tunerun.state`",
    ]
    # Trials that differ in their seed alone as one row, with the mean of its bars and a band around its curves.
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "tunerun.point"}]}
    is_replicated = any(len(point.trials) > 1 for point in verdict.points)
    # Pixels that show a column's name whole: by itself every column has 100.
    widths = {column: 30 + 7 * len(column.partition(".")[2].strip("`")) for column in columns}
    order: dict[str, Any] = {}
    if metrics:
        order = {"orderByKey": f"metrics.`{metrics[0]}`", "orderByAsc": not verdict.measures[0].higher_is_better}
    return {
        "searchFilter": f"tags.`{sweep_tag(sweep.id)}` != ''",
        **order,
        "selectedColumns": columns,  # which columns, but not in which order (3.17.2)
        "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": 230, **widths},
        "runsHiddenMode": f"FIRST_{MAX_RUNS_IN_CHARTS}_RUNS",
        "runListHidden": True,  # charts over the whole width, with titles that can be read
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # else the sections are sorted by name
        "groupBy": group if is_replicated else None,
        "useGroupedValuesInCharts": True,
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Result", "display": True, "isReordered": True, "deleted": False,
             "isGenerated": False}
        ],
        "compareRunCharts": [
            {"uuid": f"{_SECTION}-{position}", "runsCountToCompare": MAX_RUNS_IN_CHARTS, "metricSectionId": _SECTION,
             "deleted": False, "isGenerated": False, **chart}
            for position, chart in enumerate(_charts(metrics, swept, curves))
        ],
    }  # fmt: skip


def _charts(metrics: Sequence[str], swept: Sequence[str], curves: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    bars: list[dict[str, Any]] = [{"type": "BAR", "metricKey": name} for name in metrics]
    line = {"type": "LINE", "xAxisKey": "step", "scaleType": "linear", "lineSmoothness": 0, "ignoreOutliers": False}
    lines: list[dict[str, Any]] = [
        {**line, "metricKey": keys[0], "selectedMetricKeys": list(keys), "displayPoints": len(keys) > 1}
        for keys in curves
    ]
    axes: list[dict[str, Any]] = []
    if metrics and len(swept) > 1:
        axes = [{"type": "PARALLEL", "selectedParams": list(swept), "selectedMetrics": [metrics[0]]}]
    elif metrics and swept:
        axes = [
            {
                "type": "SCATTER",
                "xaxis": {"key": swept[0], "type": "PARAM"},
                "yaxis": {"key": metrics[0], "type": "METRIC"},
            }
        ]
    # The page hides charts without data by itself, but not the room for them.
    return [*bars[:1], *lines, *axes, *bars[1:]]
