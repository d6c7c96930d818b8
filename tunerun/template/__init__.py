"""The prompt template: how a row becomes an example."""

from tunerun.template.absent_cells import AbsentCellError
from tunerun.template.prompt_template import PrintedColumn, PromptTemplate, Row

__all__ = ["AbsentCellError", "PrintedColumn", "PromptTemplate", "Row"]
