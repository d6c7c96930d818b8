"""Requests to create or change a tuned model: checked by the API's limits, with its defaults filled in.

Our choice, since the API's documents do not say: batch size 4 and learning rate 0.001 up to 500 training examples, 16
and 0.0002 above. The two values of each are the API's; 500 is the most that its guide advises.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic.alias_generators import to_camel

from tunerun.job import Example
from tunerun.service.core.catalogue import Catalogue
from tunerun.service.core.new_model import MAX_DISPLAY_NAME, NewModel, refuse
from tunerun.service.core.problems import Code, ServiceError, invalid
from tunerun.service.gemini import wire
from tunerun.service.gemini.dialect import field_name

MAX_INPUT_CHARACTERS = 40_000
MAX_OUTPUT_CHARACTERS = 5_000
MAX_TRAINING_BYTES = 4 * 2**20
ADVISED_EXAMPLES = 20
"""The Gemini API's tuning guide (as last served, 2025-04-28): characters of an input and of an output, bytes of all
examples, and the least number of examples from which a model can learn."""

MANY_EXAMPLES = 500
DEFAULT_EPOCHS = 5
FEW_DEFAULTS = (4, 0.001)
MANY_DEFAULTS = (16, 0.0002)
"""Batch size and learning rate up to `MANY_EXAMPLES` and above."""

_CHANGEABLE = ("display_name", "description", "temperature", "top_p", "top_k", "reader_project_numbers")


def advice(examples: int) -> str | None:
    """Return a warning about the number of examples; None: there is none."""
    if examples >= ADVISED_EXAMPLES:
        return None
    return (
        f"{examples} training examples; the Gemini API's tuning guide advises at least {ADVISED_EXAMPLES}, better 100 "
        "to 500"
    )


def read_new_model(asked: wire.GeminiTunedModel, identifier: str, catalogue: Catalogue) -> NewModel:
    """Read a requested tuning job.

    Args:
        identifier: `tunedModelId`; empty: none was given.

    Raises:
        ServiceError: something of it is wrong.
    """
    task = asked.tuning_task or wire.TuningTask()
    training = _examples(task.training_data, field_name("training"))
    if not training:
        raise invalid(field_name("training"), "at least one example is needed")
    validation = _examples(task.validation_data, field_name("validation"))
    base_model, source = _start(asked, catalogue)
    given = task.hyperparameters or wire.GeminiHyperparameters()
    _check_rates(given)
    check_shown(asked)
    default_batch, default_rate = FEW_DEFAULTS if len(training) <= MANY_EXAMPLES else MANY_DEFAULTS
    multiplier = given.learning_rate_multiplier
    return NewModel(
        base_model,
        training,
        epoch_count=given.epoch_count or DEFAULT_EPOCHS,
        batch_size=given.batch_size or default_batch,
        learning_rate=given.learning_rate or default_rate * (multiplier or 1.0),
        validation=validation,
        source=source,
        identifier=identifier,
        display_name=asked.display_name or "",
        description=asked.description or "",
        learning_rate_multiplier=multiplier,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        reader_projects=tuple(asked.reader_project_numbers or ()),
    )


def _examples(data: wire.Dataset | None, where: str) -> tuple[Example, ...]:
    given = (data.examples.examples if data and data.examples else None) or []
    problems: list[tuple[str, str]] = []
    for number, example in enumerate(given):
        for name, text, most in (
            ("textInput", example.text_input, MAX_INPUT_CHARACTERS),
            ("output", example.output, MAX_OUTPUT_CHARACTERS),
        ):
            problem = _problem_of(text or "", most)
            if problem is not None:
                problems.append((f"{where}[{number}].{name}", problem))
    size = sum(len(f"{e.text_input or ''}{e.output or ''}".encode()) for e in given)
    if size > MAX_TRAINING_BYTES:
        problems.append((where, f"{size:,} bytes of examples, the limit is {MAX_TRAINING_BYTES:,}"))
    refuse(problems)
    return tuple(Example(e.text_input or "", e.output or "") for e in given)


def _problem_of(text: str, most: int) -> str | None:
    if not text.strip():
        return "is blank; every example needs an input and an output"
    return f"has {len(text):,} characters, the limit is {most:,}" if len(text) > most else None


def _start(asked: wire.GeminiTunedModel, catalogue: Catalogue) -> tuple[str, str]:
    """Return the base model, or the tuned model to start from; one of the two is empty."""
    source = asked.tuned_model_source.tuned_model if asked.tuned_model_source else None
    if bool(source) == bool(asked.base_model):
        raise invalid("baseModel", "set either baseModel or tunedModelSource.tunedModel")
    if source:
        return "", source.removeprefix("tunedModels/")
    prefix, slash, name = str(asked.base_model).partition("/")
    if prefix + slash != "models/" or name not in catalogue.offered:
        names = ", ".join(f"models/{offered}" for offered in catalogue.offered)
        raise ServiceError(
            Code.NOT_FOUND,
            f"baseModel: {asked.base_model!r} cannot be tuned here; there is {names}",
            fields={"baseModel": f"choose {names}"},
        )
    return name, ""


def _check_rates(given: wire.GeminiHyperparameters) -> None:
    if given.learning_rate is not None and given.learning_rate_multiplier is not None:
        words = "learningRate and learningRateMultiplier exclude each other; send one"
        raise invalid(field_name("learning_rate"), words)
    for name in ("learning_rate", "learning_rate_multiplier"):
        value = getattr(given, name)
        if value is not None and value <= 0:
            raise invalid(field_name(name), f"must be greater than 0, not {value:g}")


def check_shown(asked: wire.GeminiTunedModel) -> None:
    """Check the fields that may be changed later: how the model is shown, and its defaults for answers.

    Raises:
        ServiceError: something of it is wrong.
    """
    if len(asked.display_name or "") > MAX_DISPLAY_NAME:
        raise invalid("displayName", f"has {len(asked.display_name or '')} characters, the limit is {MAX_DISPLAY_NAME}")
    for name in ("temperature", "top_p"):
        value = getattr(asked, name)
        if value is not None and not 0 <= value <= 1:
            raise invalid(to_camel(name), f"must be from 0 to 1, not {value:g}")
    if asked.top_k is not None and asked.top_k < 0:
        raise invalid("topK", f"must be 0 or more, not {asked.top_k}")


def read_change(asked: wire.GeminiTunedModel, mask: str) -> dict[str, Any]:
    """Read the new values of a tuned model: of the fields in a mask, or of those in the request.

    Raises:
        ServiceError: a field cannot be changed, or its new value is wrong.
    """
    names = [_snake(name) for name in mask.split(",") if name.strip()]
    for name in names:
        if name not in _CHANGEABLE:
            changeable = ", ".join(to_camel(n) for n in _CHANGEABLE)
            raise invalid("updateMask", f"{name} cannot be changed; {changeable} can")
    chosen = names or [name for name in _CHANGEABLE if getattr(asked, name) is not None]
    values = {name: getattr(asked, name) for name in chosen}
    check_shown(wire.GeminiTunedModel(**values))
    for name in ("display_name", "description"):
        if name in values:
            values[name] = values[name] or ""
    if "reader_project_numbers" in values:
        values["reader_projects"] = tuple(values.pop("reader_project_numbers") or ())
    return values


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: f"_{m[1].lower()}", name.strip())
