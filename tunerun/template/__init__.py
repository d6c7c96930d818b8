"""The prompt template: how a row becomes an example."""

from tunerun.template.absent_cells import AbsentCellError
from tunerun.template.prompt_template import Column, PromptTemplate, Row

__all__ = ["AbsentCellError", "Column", "PromptTemplate", "Row"]
