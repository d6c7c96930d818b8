"""The form of a tuning job: the errors of its request, as they are shown above it."""

from __future__ import annotations

from tests.service.visitor import table
from tunerun.service.core.problems import MAX_PROBLEMS, Code, ServiceError
from tunerun.service.page.forms import TuningForm, problems_of
from tunerun.service.page.uploads import read_table


def test_problems_beyond_the_listed_ones_are_counted() -> None:
    """A file of thousands of wrong rows is not shown as one with twenty."""
    rows = read_table("a.csv", table([["1", "2"]] * MAX_PROBLEMS).encode())
    fields = {f"training[{number}].output": "is blank" for number in range(MAX_PROBLEMS)}
    error = ServiceError(Code.INVALID_ARGUMENT, "training[0].output: is blank, and 4,999 more", fields=fields)
    lines = problems_of(error, TuningForm(output_column="output"), rows).lines
    assert lines[0] == (None, "a.csv:2: 'output' is blank")
    assert lines[-1] == (None, f"and {5000 - MAX_PROBLEMS:,} more")
