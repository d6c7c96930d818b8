"""Numbers within a tolerance."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from pydantic import Field

from tunerun.metrics.base import RowMetric

_NUMBER = re.compile(
    r"(?:(?<![\w.,])[-+\u2212])?"  # the hyphen of 10-12 is not a sign
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,3}(?!\d))?"
)


@lru_cache(maxsize=100_000)  # every model is scored against the same expected texts
def last_number(text: str) -> Decimal | None:
    """Return the last number of a text; None: it has none.

    A point begins the decimals and a comma groups three digits (`1,234.5`); an exponent is read (`2e-3`). Currency and
    percent signs are ignored: `50%` is 50. A fraction is two numbers.
    """
    numbers = _NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "").replace("\u2212", "-")) if numbers else None


class Numeric(RowMetric):
    """Whether the last number of the answer is the last number of the expected text, within a tolerance.

    The last number is the answer where a model reasons before it answers; the convention of evaluations of GSM8K
    (Cobbe et al. 2021, arXiv:2110.14168), such as `flexible-extract` of lm-evaluation-harness. Compared as decimals, so
    that 1.01 is within 0.01 of 1.
    """

    name = "numeric"

    tolerance: float = Field(
        0.0,
        ge=0,
        description="Largest difference that is still right; 0: the numbers are equal.",
        json_schema_extra={"unit": "that of the numbers"},
    )

    def score(self, expected: str, answer: str) -> float:
        """Return 1.0 if the numbers are equal within the tolerance, else 0.0; an answer without a number is wrong."""
        wanted, given = last_number(expected), last_number(answer)
        if wanted is None or given is None:
            return 0.0
        return float(wanted == given or abs(wanted - given) <= Decimal(str(self.tolerance)))

    def unsuited(self, expected: str) -> str | None:
        """Return why an expected text cannot be scored: it has no number."""
        return "has no number" if last_number(expected) is None else None
