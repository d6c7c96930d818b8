"""A prompt that names the columns of a tuned model's template, as a client can send it: as a JSON object.

The rule, also in the README: a text that is a JSON object with at least one of the columns that the template reads is a
row, and is rendered exactly as `tunerun predict` renders it, or refused where that would refuse it. Any other text is
taken as it is. The only text that cannot be sent as it is, one that itself is such an object, is sent as a cell:
`{"message": "{\\"message\\": ...}"}`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tunerun.dataset import read_content
from tunerun.errors import DatasetError
from tunerun.template import PromptTemplate


class ColumnTemplate:
    """The template of a tuned model, for the texts of clients; from any thread."""

    def __init__(self, template: PromptTemplate) -> None:
        self._template = template
        self._one_at_a_time = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, by name; none where it uses the whole row, so that any object is one."""
        return tuple(sorted(self._template.input_columns))

    def text_of(self, given: str) -> str:
        """What the model is given for a text of a client.

        Raises:
            TemplateError: the text names a column, and the template cannot be rendered with what it has.
        """
        row = _row(given)
        if row is None or not self._template.used("text_input", row):
            return given
        with self._one_at_a_time:
            return self._template.render_part("text_input", row)


def _row(text: str) -> Mapping[str, Any] | None:
    """The cells of a JSON object, read as those of a training file, with numbers as they are written; None: not one."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        rows = read_content("contents.json", f"[{text}]".encode())
    except DatasetError:
        return None
    return rows[0].columns if len(rows) == 1 else None
