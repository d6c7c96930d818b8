"""Whether the answer contains the expected text."""

from __future__ import annotations

import re

from pydantic import Field

from tunerun.metrics.base import RowMetric
from tunerun.metrics.normalisation import Ignored, normalised


class Contains(RowMetric):
    """Whether the expected text occurs in the answer: for models that answer in whole sentences.

    The `includes` scorer of inspect_ai, which ignores case; here `ignore: [case]` does. A long answer that lists
    every possibility is right by this measure, and `no` occurs in `know` unless `whole_words` is set. An empty expected
    text is contained in an empty answer alone.
    """

    name = "contains"

    ignore: list[Ignored] = Field(
        default_factory=list,
        description="What the texts may differ in: case, punctuation, articles (a, an, the), white_space; empty: "
        "nothing.",
    )
    whole_words: bool = Field(
        False, description="Whether it has to occur as whole words: no letter or digit beside it."
    )

    def score(self, expected: str, answer: str) -> float:
        """Return 1.0 if the answer contains the expected text, else 0.0."""
        wanted, given = normalised(expected, self.ignore), normalised(answer, self.ignore)
        if not wanted:
            return float(not given)
        # Not \b, which needs a letter or digit at the ends of the expected text: it may be `-5` or `C++`.
        if self.whole_words:
            return float(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None)
        return float(wanted in given)
