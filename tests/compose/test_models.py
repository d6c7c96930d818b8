"""The base models that ship in conf/model/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.experiments import overrides
from tunerun.compose import load
from tunerun.engine import hub
from tunerun.planning import plan
from tunerun.schema import Model

OPEN = (
    "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "gemma-3-270m", "gemma-3-1b", "gemma-3-4b", "llama-3.2-1b",
    "llama-3.2-3b", "smollm2-360m", "smollm2-1.7b", "smollm3-3b", "phi-4-mini",
)  # fmt: skip


def shipped(name: str) -> Model:
    return load(["name=x", "dataset.path=x.csv", f"model={name}"]).model


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPEN)
def test_a_shipped_model_says_what_a_user_has_to_know(name: str) -> None:
    """Hub name, licence, context, a learning rate with its source and date; its header has a command."""
    model = shipped(name)
    assert model.name == name
    assert hub.is_name(model.source)
    assert model.license in {"Apache-2.0", "MIT", "gemma", "llama3.2"}
    assert model.context_length is not None
    assert model.context_length >= 8192
    assert model.advised_learning_rate is not None
    assert re.search(r"\(read \d{4}-\d{2}-\d{2}\)$", model.advised_learning_rate.source)
    header = (REPOSITORY / "conf" / "model" / f"{name}.yaml").read_text()
    assert f"# tunerun plan experiment=next_number model={name} hyperparameters.learning_rate=" in header
    assert ("HF_TOKEN" in header) == (model.license in {"gemma", "llama3.2"})
    assert "# Chat: " in header


@pytest.mark.parametrize(("rates", "says"), [("0.001", True), ("0.0003", False), ("0.0001,0.001", False)])
def test_an_advised_learning_rate_is_a_warning_if_no_trial_is_near(tmp_path: Path, rates: str, says: bool) -> None:
    """A sweep with one trial within three times of it explores, and gets no warning."""
    advised = "model.advised_learning_rate={value: 2e-4, source: 'a guide, read 2026-11-26'}"
    options = overrides(tmp_path, advised, f"sweep.axes={{hyperparameters.learning_rate: '{rates}'}}")
    said = [text for text in plan(load(options)).warnings if "is advised for" in text]
    advice = (
        "hyperparameters.learning_rate: 0.001, and 0.0002 is advised for smollm2-135m (a guide, read 2026-11-26); set "
        "hyperparameters.learning_rate=0.0002, or sweep around it"
    )
    assert said == [advice] * says


def test_an_advised_learning_rate_can_be_taken() -> None:
    """By an interpolation, so that it follows the model; by itself it sets nothing."""
    given = ["name=x", "dataset.path=x.csv", "model=qwen3-4b"]
    taken = load([*given, "hyperparameters.learning_rate=${model.advised_learning_rate.value}"])
    assert taken.hyperparameters.learning_rate == 3e-4
    assert load(given).hyperparameters.learning_rate == 1e-3
