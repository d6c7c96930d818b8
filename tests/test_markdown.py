"""Markdown of values from outside."""

from tunerun import markdown


def test_text_from_outside_is_shown_unchanged_in_one_cell() -> None:
    """Characters that Markdown would read as markup or as the end of a cell are escaped, and line breaks are spaces."""
    assert markdown.table(["a|b"], [["*c*\nd"]]) == "| a\\|b |\n| --- |\n| \\*c\\* d |"


def test_cells_that_are_markdown_already_are_kept() -> None:
    """A renderer that has marked up its cells writes the same table."""
    assert (
        markdown.table(["a", "b"], [["**c**", "`d`"]], is_markdown=True) == "| a | b |\n| --- | --- |\n| **c** | `d` |"
    )


def test_what_markdown_would_read_as_markup_is_escaped() -> None:
    """Bars, tags, emphasis, links, code and character references are shown as they are written."""
    text = '=HYPERLINK("http://x")|<script>alert(1)</script>\n[bold]&amp; `a` *b* _c_ 50% $x$ #1 ~ ^ \\'
    assert markdown.escaped(text) == (
        r'=HYPERLINK("http://x")\|\<script\>alert(1)\</script\> \[bold\]\&amp; \`a\` \*b\* \_c\_ 50% $x$ #1 \~ ^ \\'
    )


def test_plain_names_stay_readable() -> None:
    """An underscore inside a word and an ampersand between words need no escape."""
    assert markdown.escaped("learning_rate 5 & 6") == "learning_rate 5 & 6"
