"""OpenAI's hyperparameters are resolved to numbers as the module's table says."""

from __future__ import annotations

import re

import pytest

from tunerun.service.core.problems import ServiceError
from tunerun.service.openai import hyperparameters
from tunerun.service.openai.hyperparameters import ResolvedHyperparameters, resolve

WHERE = "hyperparameters"


def automatic(examples: int) -> ResolvedHyperparameters:
    return resolve("auto", None, "auto", examples, WHERE)


def test_auto_follows_the_documented_table() -> None:
    """At the first and the last number of examples of each row."""
    rows = re.findall(
        r"^\| ([\d,]+) (?:to ([\d,]+)|and more) \| (.+?) \| (\d+) \| ([\d.]+) \|", hyperparameters.__doc__ or "", re.M
    )
    assert len(rows) == 6
    for first, last, epochs, batch, multiplier in rows:
        for examples in (int(text.replace(",", "")) for text in (first, last or first)):
            expected = 100 // examples if "examples" in epochs else int(epochs)
            assert automatic(examples) == ResolvedHyperparameters(expected, int(batch), float(multiplier)), examples


def test_numbers_are_used_unchanged() -> None:
    """The multiplier applies to 0.001 for any number of examples; 3.0 counts as a whole number."""
    resolved = resolve(3.0, 2, 0.5, 10_000, WHERE)
    assert resolved == ResolvedHyperparameters(3, 2, 0.5)
    assert resolved.learning_rate == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((0, None, None), "n_epochs"),
        ((1.5, None, None), "n_epochs"),
        ((None, -1, None), "batch_size"),
        ((None, 2.0**40, None), "batch_size"),
        ((None, None, 0), "learning_rate_multiplier"),
        ((0, 0, 0), "n_epochs"),
    ],
)
def test_an_invalid_hyperparameter_is_refused(
    values: tuple[float | None, float | None, float | None], field: str
) -> None:
    """The error names its path."""
    with pytest.raises(ServiceError, match=rf"^hyperparameters\.{field}: ") as refused:
        resolve(*values, 10, WHERE)
    assert [*refused.value.fields] == [f"{WHERE}.{field}"]
