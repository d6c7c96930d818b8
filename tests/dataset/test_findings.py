"""Problems and warnings about the rows of a file."""

import tracemalloc

from tunerun.dataset import Findings


def test_the_lines_of_a_kind_are_together() -> None:
    """Kinds follow each other in the order of their first line; beyond a limit the last line counts the others."""
    findings = Findings("a.csv")
    findings.add_row("blank", 2, "is blank")
    findings.add("column", "a.csv: no row has the column 'x'")
    for line in (3, 5, 8):
        findings.add_row("blank", line, "is blank")
    findings.warn("quotes", "a.csv: quotes are read as text")
    assert len(findings) == 5
    assert findings.lines(2) == (
        "a.csv:2: is blank",
        "a.csv:3: is blank (and 2 more like this)",
        "a.csv: no row has the column 'x'",
    )
    assert findings.file_lines() == ("a.csv: no row has the column 'x'",)
    assert findings.warnings() == ("a.csv: quotes are read as text",)


def test_a_row_is_skipped_once() -> None:
    """A row with several problems, from several stages, counts as one."""
    findings, later = Findings("a.parquet", "row"), Findings("a.parquet", "row")
    findings.add_row("blank", 2, "text_input is blank")
    later.add_row("long", 2, "output is too long")
    later.add_row("long", 4, "output is too long")
    findings.extend(later)
    assert findings.skipped() == (
        "a.parquet: 2 rows are skipped (dataset.on_bad_row=skip)",
        "a.parquet: row 2: text_input is blank",
        "a.parquet: row 2: output is too long",
        "a.parquet: row 4: output is too long",
    )


def test_many_bad_rows_take_little_memory() -> None:
    """Rows with the same problem share its text."""
    tracemalloc.start()
    try:
        findings = Findings("a.jsonl")
        for line in range(10_000):
            findings.add_row("blank", line, "text_input is blank after the template; fill in the row or remove it")
        assert tracemalloc.get_traced_memory()[0] < 10_000 * 32
    finally:
        tracemalloc.stop()
