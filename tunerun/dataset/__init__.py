"""Data sets: read files of rows, render them with the template, check, split and digest the examples."""

from tunerun.dataset.conversations import with_conversations
from tunerun.dataset.findings import Findings
from tunerun.dataset.inspection import CHECKS, Finding
from tunerun.dataset.lengths import TokenLimit
from tunerun.dataset.loading import LoadedDataset, Progress, load_examples
from tunerun.dataset.reading import read_content, read_rows
from tunerun.dataset.rows import ABSENT, RowBuilder, Rows, SourceRow
from tunerun.dataset.suggestion import template_that_fits, yaml_line

__all__ = [
    "ABSENT",
    "CHECKS",
    "Finding",
    "Findings",
    "LoadedDataset",
    "Progress",
    "RowBuilder",
    "Rows",
    "SourceRow",
    "TokenLimit",
    "load_examples",
    "read_content",
    "read_rows",
    "template_that_fits",
    "with_conversations",
    "yaml_line",
]
