"""The training examples of a tuned model, by page, and the findings of the data checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.dataset.advice import MOST_PLACES
from tunerun.dataset.export import FORMATS
from tunerun.dataset.inspection import Finding, inspect
from tunerun.dataset.rendering import CharacterLimits, render_rows
from tunerun.dataset.rows import RowBuilder
from tunerun.examples import Example
from tunerun.job import TemplateText
from tunerun.template import PromptTemplate

PER_PAGE = 20

MOST_CHECKED = 20_000
"""The most examples that are checked for the page: a second or two. `tunerun data check` takes larger sets."""

MOST_KEPT = 100
"""Tuned models whose findings are kept in memory."""


@dataclass(frozen=True)
class ExamplePage:
    """A page of examples.

    Attributes:
        rows: the examples of the page.
        total: number of examples on all pages.
        page: its number, from 1.
    """

    rows: Sequence[Example]
    total: int
    page: int

    @property
    def first(self) -> int:
        """The number of the page's first example, from 1."""
        return (self.page - 1) * PER_PAGE + 1

    @property
    def last_page(self) -> int:
        """The number of the last page, from 1."""
        return max(1, -(-self.total // PER_PAGE))


def page_of(examples: Sequence[Example], page: int) -> ExamplePage:
    """Return a page of examples; a number beyond the last page is the last one."""
    page = min(max(1, page), ExamplePage((), len(examples), 1).last_page)
    start = (page - 1) * PER_PAGE
    return ExamplePage(examples[start : start + PER_PAGE], len(examples), page)


class CheckedExamples:
    """Findings of the checks of `tunerun data check` on tuned models' examples; each set is checked once."""

    def __init__(self) -> None:
        self._checked: dict[str, tuple[Finding, ...]] = {}

    def findings(self, key: str, examples: Sequence[Example]) -> tuple[Finding, ...] | None:
        """Return the findings, with row numbers; None: there are too many examples to check for a page.

        Args:
            key: the tuned model's; its examples never change.
            examples: its training examples.
        """
        if len(examples) > MOST_CHECKED:
            return None
        findings = self._checked.get(key)  # read once: another thread may remove it
        if findings is None:
            while len(self._checked) >= MOST_KEPT:
                self._checked.pop(next(iter(self._checked)), None)  # None: another thread was first
            # Written as a training file and checked as one, so that the page and `tunerun data check` agree.
            rows = RowBuilder("")  # without a file, places are written as `row 3`
            kind = "openai" if any(example.is_conversation for example in examples) else "gemini"
            for number, example in enumerate(examples, start=1):
                rows.add(number, FORMATS[kind].row(example))
            template = PromptTemplate(TemplateText())
            rendered, _ = render_rows(rows.rows(), template, CharacterLimits(None, None))
            findings = self._checked[key] = tuple(inspect(rendered, {}, MOST_PLACES))
        return findings
