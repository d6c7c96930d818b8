"""The examples of a tuned model on the page: conversations, and findings of the data checks."""

from __future__ import annotations

from tunerun.examples import Example, Turn
from tunerun.service.page.training_rows import MOST_CHECKED, PER_PAGE, CheckedExamples, page_of


def test_conversations_are_checked_turn_by_turn() -> None:
    """Findings name the row and the message, also of earlier turns; the examples of a key are checked once."""
    talk = Example("3", "4", "Count.", (Turn("1", " 2"),))
    checked = CheckedExamples()
    findings = checked.findings("key", [Example("5", "6"), talk])
    assert findings is not None
    assert [(one.check, one.text.partition(": white")[0]) for one in findings] == [("spaces", "row 2: messages[2]")]
    assert checked.findings("key", []) is findings


def test_too_many_examples_are_not_checked() -> None:
    """The checks of a very large set would delay the page."""
    assert CheckedExamples().findings("key", [Example("1", "2")] * (MOST_CHECKED + 1)) is None


def test_pages_of_examples() -> None:
    """Every example is on one page; without examples there is one page."""
    examples = [Example(str(number), "") for number in range(2 * PER_PAGE + 1)]
    pages = [page_of(examples, number) for number in (1, 2, 3)]
    assert [one for page in pages for one in page.rows] == examples
    assert [page.first for page in pages] == [1, PER_PAGE + 1, 2 * PER_PAGE + 1]
    assert (page_of([], 5).page, page_of([], 5).last_page) == (1, 1)
