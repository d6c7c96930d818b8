"""A prompt that names the columns of a tuned model's template, as a client can send it: as a JSON object.

The rule, also in docs/serve.md: a text that is a JSON object with at least one of the columns that the template reads
is a row, and is rendered exactly as `tunerun predict` renders it, or refused where that would refuse it. Any other text
is taken as it is. The only text that cannot be sent as it is, one that itself is such an object, is sent as a cell:
`{"message": "{\\"message\\": ...}"}`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tunerun.dataset import read_content
from tunerun.errors import DatasetError
from tunerun.template import PromptTemplate
from tunerun.template.prompt_template import SYSTEM, system_or_none


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
        """Render a client's text for the model.

        Raises:
            TemplateError: the text names a column, and the template cannot be rendered with what it has.
        """
        row = _row(given)
        if row is None or not self._template.used("text_input", row):
            return given
        with self._one_at_a_time:
            return self._template.render_part("text_input", row)

    def system_of(self, given: str) -> str:
        """Return the system message to use for a client's; empty: none.

        A template that has its own system message sends that where the client has none, as in training; one that says
        what becomes of `{{ system }}` makes it of the client's. A client's own message replaces a constant one, and one
        that is made of other columns of a row, which a client does not send.
        """
        columns = self._template.columns_of(SYSTEM)
        if SYSTEM not in self._template.parts or columns - {SYSTEM} or (given and not columns):
            return given
        with self._one_at_a_time:
            return system_or_none(self._template.render_part(SYSTEM, {SYSTEM: given}))


def _row(text: str) -> Mapping[str, Any] | None:
    """The cells of a JSON object, read as those of a training file, with numbers as they are written; None: not one."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        rows = read_content("contents.json", f"[{text}]".encode())
    except DatasetError:
        return None
    return rows[0].columns if len(rows) == 1 else None
