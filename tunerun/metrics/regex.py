"""A regular expression."""

from __future__ import annotations

import re
from functools import cached_property

from pydantic import Field, field_validator

from tunerun.metrics.base import RowMetric


class Regex(RowMetric):
    """Whether the answer matches a regular expression (Python's `re`), at the first place where it does.

    A pattern with a group selects a part of the answer, which has to equal the expected text, apart from white space at
    the ends; the expected text is read by the same pattern where it matches there. A pattern without a group only
    asks for a form: the expected text is ignored.
    """

    name = "regex"

    pattern: str = Field(
        min_length=1,
        description="Regular expression in Python's syntax; its first group is compared with the expected text; "
        "without a group, the answer has to match. (?i) in front ignores case.",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def score(self, expected: str, answer: str) -> float:
        """Return 1.0 if the answer matches, else 0.0."""
        match = self._compiled.search(answer)
        if match is None or not self._compiled.groups:
            return float(match is not None)
        # An expected text such as `The answer is 4` is read by the same pattern; a bare `4` is compared as it is.
        expected_match = self._compiled.search(expected)
        return float((match[1] or "").strip() == ((expected_match[1] or "") if expected_match else expected).strip())
