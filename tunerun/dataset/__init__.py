"""Examples: read files of rows, check them, render them with the template, split them, digest them."""

from tunerun.dataset.chat import with_chat_columns
from tunerun.dataset.loading import LoadedDataset, load_examples
from tunerun.dataset.reading import read_rows
from tunerun.dataset.rows import SourceRow

__all__ = ["LoadedDataset", "SourceRow", "load_examples", "read_rows", "with_chat_columns"]
