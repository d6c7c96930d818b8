"""Measures of answers to held-out examples: one file each, found by name."""

from tunerun.metrics.base import Asks, Metric, Unit

__all__ = ["Asks", "Metric", "Unit"]
