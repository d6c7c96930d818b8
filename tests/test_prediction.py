"""How a tuned model is found, and with which template it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking.sweeps import freeze
from tunerun.examples import Conversation, Example, Input
from tunerun.job import TemplateText
from tunerun.ledger import FILE_NAME, Ledger, Mark
from tunerun.prediction import find_model, training_of, unlearned
from tunerun.schema import Template


@pytest.mark.parametrize("is_by_name", [True, False])
def test_a_shared_model_is_called_as_the_newest_sweep_says(tmp_path: Path, is_by_name: bool) -> None:
    """By its name and by a run id alike, where sweeps of different templates share its key."""
    newer = Template(text_input="Next of {{ text_input }}")
    with Ledger(tmp_path / FILE_NAME) as ledger:
        lab = freeze(ledger)
        lab.finish(0, location="tunedModels/at-a-service")
        key = lab.trials[0].key
        assert freeze(ledger, "next-number-2b3c4d5e", template=newer).trials[0].key == key
        ledger.set_mark("mlflow", f"next-number/trial/{key}", Mark("0123abc", {}))
    model = find_model(f"tunedModels/t-{key[:8]}" if is_by_name else "0123abc", tmp_path)
    assert model.template.template == TemplateText(newer.text_input, newer.output)


def test_what_a_model_was_trained_on(tmp_path: Path) -> None:
    """The examples that the ledger froze, by the tuned model's name."""
    with Ledger(tmp_path / FILE_NAME) as ledger:
        lab = freeze(ledger)
        lab.finish(0, location="tunedModels/at-a-service")
        trial = lab.trials[0]
        expected = ledger.example_set(trial.training).examples
    assert expected
    assert training_of(f"tunedModels/t-{trial.key[:8]}", tmp_path) == expected


@pytest.mark.parametrize(
    ("inputs", "systems", "expected"),
    [
        (["a", Conversation("b", "S")], ["S"], ["1 of 2 rows: no system message, but every training row had one"]),
        ([Conversation("b", "T")], ["S", ""], ["1 of 1 row: a system message that did not occur in training"]),
        (["a", Conversation("b", "S")], ["S", ""], []),
        (["a"], [], []),
    ],
)
def test_system_messages_that_were_not_learned(inputs: list[Input], systems: list[str], expected: list[str]) -> None:
    """Inputs with another system message than training's are counted; without the training rows there is no warning."""
    warnings = list(unlearned(inputs, [Example("c", "d", system) for system in systems]))
    assert len(warnings) == len(expected)
    assert all(line.startswith(start) for line, start in zip(warnings, expected, strict=True))
