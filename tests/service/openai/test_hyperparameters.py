"""OpenAI's hyperparameters become numbers by the table of the module."""

from __future__ import annotations

import re

import pytest

from tunerun.service.core.problems import ServiceError
from tunerun.service.openai import hyperparameters
from tunerun.service.openai.hyperparameters import Resolved, resolve

WHERE = "hyperparameters"


def automatic(examples: int) -> Resolved:
    return resolve("auto", None, "auto", examples, WHERE)


def test_auto_is_what_the_table_says() -> None:
    """Each row of the documented table, at its first and its last number of examples."""
    rows = re.findall(
        r"^\| ([\d,]+) (?:to ([\d,]+)|and more) \| (.+?) \| (\d+) \| ([\d.]+) \|", hyperparameters.__doc__ or "", re.M
    )
    assert len(rows) == 6
    for first, last, epochs, batch, multiplier in rows:
        for examples in (int(text.replace(",", "")) for text in (first, last or first)):
            wanted = 100 // examples if "examples" in epochs else int(epochs)
            assert automatic(examples) == Resolved(wanted, int(batch), float(multiplier)), examples


def test_numbers_are_taken_as_they_are() -> None:
    """A multiplier multiplies 0.001 whatever the number of examples; whole floats are whole numbers."""
    found = resolve(3.0, 2, 0.5, 10_000, WHERE)
    assert found == Resolved(3, 2, 0.5)
    assert found.learning_rate == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((0, None, None), "n_epochs"),
        ((1.5, None, None), "n_epochs"),
        ((None, -1, None), "batch_size"),
        ((None, 2.0**40, None), "batch_size"),
        ((None, None, 0), "learning_rate_multiplier"),
        ((None, None, 1e-40), "learning_rate_multiplier"),
        ((2**31 - 1, 1, None), "n_epochs"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(
    values: tuple[float | None, float | None, float | None], field: str
) -> None:
    """The field is named by its path."""
    with pytest.raises(ServiceError, match=rf"^hyperparameters\.{field}: ") as refused:
        resolve(*values, 10, WHERE)
    assert [*refused.value.fields] == [f"{WHERE}.{field}"]
