"""Metrics: how answers to held-out examples are scored. One file each, registered by name."""

from tunerun.metrics.base import Asks, Metric, MetricModel, RowMetric, Unit
from tunerun.metrics.own_metric import CodeFile, code_files, load_code
from tunerun.metrics.registry import names, resolve, resolve_stored, summaries

__all__ = [
    "Asks",
    "CodeFile",
    "Metric",
    "MetricModel",
    "RowMetric",
    "Unit",
    "code_files",
    "load_code",
    "names",
    "resolve",
    "resolve_stored",
    "summaries",
]
