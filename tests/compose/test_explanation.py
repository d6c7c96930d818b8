"""`config --explain` answers for every key that can be written."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from tunerun.compose import config_directories, explain
from tunerun.compose.explanation import explanation, text_of
from tunerun.compose.loader import Loader
from tunerun.compose.validation import models_in
from tunerun.errors import ConfigError
from tunerun.schema import WORKED_OUT, Experiment


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the schema, those of each member of a union."""
    for name, field in model.model_fields.items():
        if prefix or name not in WORKED_OUT:
            yield f"{prefix}{name}"
            for member, _ in models_in(field.annotation):
                yield from keys_of(member, f"{prefix}{name}.")


KEYS = sorted(set(keys_of(Experiment)))


def test_every_key_of_the_schema_is_explained() -> None:
    """Description, what is allowed and the default; a unit for every number, the choices of every group and literal."""
    problems = []
    with Loader(config_directories()) as loader:
        for key in KEYS:
            found = explanation(loader, (), key)
            text = text_of(found)
            assert text.startswith(f"{key} = ")
            if not found["description"] or found["description"] == "A key of a mapping whose keys are free.":
                problems.append(f"{key}: no description")
            if found["allowed"] is None or found["default"] is None:
                problems.append(f"{key}: no type or no default")
            if "number" in str(found["allowed"]) and found["unit"] is None:
                problems.append(f"{key}: no unit; give its field json_schema_extra={{'unit': ...}}")
            if "one of its choices" in str(found["allowed"]) and not found["choices"]:
                problems.append(f"{key}: no choices")
        groups = [group for group in loader.groups() if not explanation(loader, (), group)["choices"]]
    problems += [f"{group}: no choices" for group in groups if group not in ("local", "debug")]
    assert problems == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("backend", ["choices: gemini, local", "written in: "]),
        ("backend.base_url", ["(not in this config)", "only with: backend.kind=gemini", "default: https://generativelanguage"]),
        ("backend.kind", ["backend.kind = local", "choices: gemini, local"]),
        ("backend.device", ["choices: auto, cpu, cuda, mps", "default: auto", "only with: backend.kind=local"]),
        ("model.price.usd_per_million_tokens", ["(not in this config)", "unit: US dollars per million tokens", "0 or more"]),
        ("hyperparameters.epoch_count", ["= 5", "unit: epochs", "default: 5", "allowed: a whole number, 1 or more", "default.yaml:"]),
        ("hyperparameters.learning_rate", ["a number or null", "more than 0"]),
        ("runner.backoff_s", ["unit: seconds"]),
        ("evaluation.metrics", ["choices: exact_match, accuracy, macro_f1", "numeric: Whether the last number of the answer", "`tolerance`: Largest difference", "a list, each text or a mapping"]),
        ("name", ["= ???", "none; it must be given"]),
        ("experiment", ["choices: banking_intents, next_number"]),
        ("sweep.axes", ["= {}", "a mapping"]),
    ],
)  # fmt: skip
def test_an_explanation_has_allowed_values_units_and_choices(key: str, words: list[str]) -> None:
    """Also where the composed config has another member of a union, or null in the place of a section."""
    text = text_of(explain(key))
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("backend.base_ulr", "did you mean 'base_url'"),
        ("model.price.dat", "did you mean 'date'"),
        ("points", "points: no such key"),
        ("backend.base_url.x", "no such key"),
    ],
)
def test_an_error_about_an_unknown_key_names_the_nearest(key: str, words: str) -> None:
    """Also below a union, and for what a load works out."""
    with pytest.raises(ConfigError, match=words):
        explain(key)


def test_a_key_of_an_axis_is_the_authors_own() -> None:
    """Its name is free."""
    found = explain("sweep.axes.seed", ["+sweep.axes.seed=1"])
    assert (found["value"], found["description"]) == (1, "A key of a mapping whose keys are free.")


def test_the_types_of_an_explanation_are_json() -> None:
    """`--json` prints them as they are."""
    for value in explain("hyperparameters").values():
        assert isinstance(value, typing.get_args(str | int | float | bool | list | dict | None))
