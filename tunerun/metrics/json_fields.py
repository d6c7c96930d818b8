"""The share of expected fields that are right."""

from __future__ import annotations

from tunerun.metrics.base import RowMetric
from tunerun.metrics.json_text import NotJsonError, are_equal, fields_of, read_json


class JsonFields(RowMetric):
    """The share of the expected JSON's fields that the answer has with the same value.

    Fields of nested objects count one by one, a list is one field; 1 and 1.0 are the same, 1 and true are not. Fields
    that the answer has beyond them are not counted. An answer that is not JSON has none right.
    """

    name = "json_fields"

    def score(self, expected: str, answer: str) -> float:
        """Return the share of expected fields with the right value, 0 to 1."""
        try:
            wanted, given = dict(fields_of(read_json(expected))), dict(fields_of(read_json(answer)))
        except (NotJsonError, RecursionError):  # a model may answer with thousands of brackets
            return 0.0
        # An empty object and a value that is not an object are one leaf each, so there is always a field to divide by.
        return sum(path in given and are_equal(value, given[path]) for path, value in wanted.items()) / len(wanted)

    def unsuited(self, expected: str) -> str | None:
        """Return why an expected text cannot be scored: it is not JSON."""
        try:
            read_json(expected)
        except NotJsonError:
            return "is not JSON"
        return None
