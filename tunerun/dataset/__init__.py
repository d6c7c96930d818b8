"""Examples: read files of rows, check them, render them with the template, split them, digest them."""

from tunerun.dataset.chat import with_chat_columns
from tunerun.dataset.inspection import CHECKS, Finding, TokenLimit
from tunerun.dataset.loading import LoadedDataset, TokenCheck, load_examples
from tunerun.dataset.reading import read_content, read_rows
from tunerun.dataset.rows import SourceRow

__all__ = [
    "CHECKS",
    "Finding",
    "LoadedDataset",
    "SourceRow",
    "TokenCheck",
    "TokenLimit",
    "load_examples",
    "read_content",
    "read_rows",
    "with_chat_columns",
]
