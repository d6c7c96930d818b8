"""The report: a comparison as one HTML file that needs no network."""

from tunerun.comparison.report.document import Document, build
from tunerun.comparison.report.page import render
from tunerun.comparison.report.reading import read_sources
from tunerun.comparison.report.sources import ConfusionTable, LossCurve, ReportSources, ShownAnswers

__all__ = [
    "ConfusionTable",
    "Document",
    "LossCurve",
    "ReportSources",
    "ShownAnswers",
    "build",
    "read_sources",
    "render",
]
