"""Prompts as rows: a client may send the columns of a tuned model's template as a JSON object.

The rule, also in docs/serve.md: a text that is a JSON object with at least one of the template's columns is a row. It
is rendered exactly as `tunerun predict` renders it, or refused where that would refuse it. Any other text is used
verbatim. A text that is itself such an object has to be sent as a cell: `{"message": "{\\"message\\": ...}"}`.
"""

from __future__ import annotations

import threading

from tunerun.dataset import read_content
from tunerun.errors import DatasetError
from tunerun.template import PromptTemplate
from tunerun.template.prompt_template import SYSTEM, system_or_none


class ColumnTemplate:
    """The template of a tuned model, applied to clients' texts. Safe to use from any thread.

    Args:
        template: the template that the model was tuned with.
    """

    def __init__(self, template: PromptTemplate) -> None:
        self._template = template
        self._one_at_a_time = threading.Lock()  # a template's sandbox counts the work of one rendering

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the template reads, sorted; empty: it uses the whole row, so any object is a row."""
        return tuple(sorted(self._template.input_columns))

    def text_of(self, text: str) -> str:
        """Render a client's text for the model; a text that is not a row is returned unchanged.

        Raises:
            TemplateError: the text is a row, but the template cannot be rendered with its columns.
        """
        if not text.lstrip().startswith("{"):
            return text
        # Read as a training file with one row, so that numbers, nulls and nesting are treated as in training.
        try:
            rows = read_content("contents.json", f"[{text}]".encode())
        except DatasetError:
            return text
        # More than one: `{...}, {...}`, which is not an object but fits between the brackets.
        if len(rows) != 1 or not self._template.used("text_input", rows[0].columns):
            return text
        with self._one_at_a_time:
            return self._template.render_part("text_input", rows[0].columns)

    def system_of(self, text: str) -> str:
        """Return the system message for a prompt; empty: none.

        - A template that refers to `{{ system }}` is rendered with the client's message.
        - A template with a constant system message uses it, as in training, unless the client sends one.
        - A system message that is made from other columns of a row is not used, since a client does not send them.

        Args:
            text: the client's system message; empty: it sent none.
        """
        columns = self._template.columns_of(SYSTEM)
        if SYSTEM not in self._template.parts or columns - {SYSTEM} or (text and not columns):
            return text
        with self._one_at_a_time:
            return system_or_none(self._template.render_part(SYSTEM, {SYSTEM: text}))
