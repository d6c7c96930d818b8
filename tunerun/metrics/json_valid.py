"""Whether the answer is JSON."""

from __future__ import annotations

from tunerun.metrics.base import RowMetric
from tunerun.metrics.json_text import NotJsonError, read_json


class JsonValid(RowMetric):
    """Whether the whole answer is one JSON text (RFC 8259); the expected text is ignored.

    A fence of three backticks around it or a word before it makes it invalid, as for a program that reads it.
    """

    name = "json_valid"

    def score(self, expected: str, answer: str) -> float:  # noqa: ARG002
        """Return 1.0 if the answer is JSON, else 0.0."""
        try:
            read_json(answer)
        except NotJsonError:
            return 0.0
        return 1.0
