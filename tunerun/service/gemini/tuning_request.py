"""Requests to create or change a tuned model: checked by the API's limits, with its defaults filled in.

Our choice, since the API's documents do not say: batch size 4 and learning rate 0.001 up to 500 training examples, 16
and 0.0002 above. The two values of each are the API's; 500 is the most that its guide advises.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic.alias_generators import to_camel

from tunerun.examples import Example
from tunerun.service.core.catalogue import Catalogue
from tunerun.service.core.new_model import MAX_DISPLAY_NAME, NewModel, refuse
from tunerun.service.core.problems import Code, ServiceError, invalid
from tunerun.service.gemini import wire
from tunerun.service.gemini.dialect import field_name
from tunerun.tuning_guide import (
    ADVISED_EXAMPLES,
    FEWEST_EXAMPLES,
    MOST_INPUT_CHARACTERS,
    MOST_OUTPUT_CHARACTERS,
    MOST_TRAINING_BYTES,
)

MANY_EXAMPLES = 500
DEFAULT_EPOCHS = 5
FEW_DEFAULTS = (4, 0.001)
MANY_DEFAULTS = (16, 0.0002)
"""Batch size and learning rate up to `MANY_EXAMPLES` and above."""

_CHANGEABLE = ("display_name", "description", "temperature", "top_p", "top_k", "reader_project_numbers")


def advice(examples: int) -> str | None:
    """Return a warning about the number of examples; None: there is none."""
    if examples >= FEWEST_EXAMPLES:
        return None
    few, many = ADVISED_EXAMPLES
    return (
        f"{examples} training examples; the Gemini API's tuning guide advises at least {FEWEST_EXAMPLES}, better {few} "
        f"to {many}"
    )


def read_new_model(body: wire.GeminiTunedModel, identifier: str, catalogue: Catalogue) -> NewModel:
    """Read a requested tuning job.

    Args:
        body: the tuned model to create.
        identifier: `tunedModelId`; empty: one is generated.
        catalogue: the base models that can be tuned.

    Raises:
        ServiceError: a field is invalid; for examples, names all that are.
    """
    task = body.tuning_task or wire.TuningTask()
    training = _examples(task.training_data, field_name("training"))
    if not training:
        raise invalid(field_name("training"), "at least one example is needed")
    validation = _examples(task.validation_data, field_name("validation"))

    # This pair and that of the learning rate are a `oneof` each in the proto, which JSON cannot express.
    source = body.tuned_model_source.tuned_model if body.tuned_model_source else None
    if bool(source) == bool(body.base_model):
        raise invalid("baseModel", "set either baseModel or tunedModelSource.tunedModel")
    base_model = "" if source else _base_model(str(body.base_model), catalogue)

    hyperparameters = task.hyperparameters or wire.GeminiHyperparameters()
    rate, multiplier = hyperparameters.learning_rate, hyperparameters.learning_rate_multiplier
    if rate is not None and multiplier is not None:
        words = "learningRate and learningRateMultiplier exclude each other; send one"
        raise invalid(field_name("learning_rate"), words)
    for name, value in (("learning_rate", rate), ("learning_rate_multiplier", multiplier)):
        if value is not None and value <= 0:
            raise invalid(field_name(name), f"must be greater than 0, not {value:g}")
    check_shown(body)

    default_batch, default_rate = FEW_DEFAULTS if len(training) <= MANY_EXAMPLES else MANY_DEFAULTS
    return NewModel(
        base_model,
        training,
        # 0 is proto3's way of writing "not set" for these two.
        epoch_count=hyperparameters.epoch_count or DEFAULT_EPOCHS,
        batch_size=hyperparameters.batch_size or default_batch,
        learning_rate=rate or default_rate * (multiplier or 1.0),
        validation=validation,
        source=(source or "").removeprefix("tunedModels/"),
        identifier=identifier,
        display_name=body.display_name or "",
        description=body.description or "",
        learning_rate_multiplier=multiplier,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        reader_projects=tuple(body.reader_project_numbers or ()),
    )


def _examples(data: wire.Dataset | None, where: str) -> tuple[Example, ...]:
    """Return the examples of a data set, checked by the limits of the guide."""
    rows = (data.examples.examples if data and data.examples else None) or []
    examples = tuple(Example(row.text_input or "", row.output or "") for row in rows)
    problems: list[tuple[str, str]] = []
    for number, example in enumerate(examples):
        for name, text, most in (
            ("textInput", example.text_input, MOST_INPUT_CHARACTERS),
            ("output", example.output, MOST_OUTPUT_CHARACTERS),
        ):
            if not text.strip():
                problems.append((f"{where}[{number}].{name}", "is blank; every example needs an input and an output"))
            elif len(text) > most:
                words = f"has {len(text):,} characters, the limit is {most:,}"
                problems.append((f"{where}[{number}].{name}", words))
    # The texts alone: how a client writes its JSON does not count.
    size = sum(len(f"{example.text_input}{example.output}".encode()) for example in examples)
    if size > MOST_TRAINING_BYTES:
        problems.append((where, f"{size:,} bytes of examples, the limit is {MOST_TRAINING_BYTES:,}"))
    refuse(problems)
    return examples


def _base_model(name: str, catalogue: Catalogue) -> str:
    """Return the catalogue's name of a base model: NAME of `models/NAME`."""
    offered = name.removeprefix("models/")
    if not name.startswith("models/") or offered not in catalogue.offered:
        names = ", ".join(f"models/{each}" for each in catalogue.offered)
        raise ServiceError(
            Code.NOT_FOUND,
            f"baseModel: {name!r} cannot be tuned here; there is {names}",
            fields={"baseModel": f"choose {names}"},
        )
    return offered


def check_shown(body: wire.GeminiTunedModel) -> None:
    """Check the fields that may be changed later: how the model is shown, and its defaults for answers.

    Raises:
        ServiceError: a field is invalid.
    """
    if len(body.display_name or "") > MAX_DISPLAY_NAME:
        raise invalid("displayName", f"has {len(body.display_name or '')} characters, the limit is {MAX_DISPLAY_NAME}")
    for name in ("temperature", "top_p"):
        value = getattr(body, name)
        if value is not None and not 0 <= value <= 1:
            raise invalid(to_camel(name), f"must be from 0 to 1, not {value:g}")
    if body.top_k is not None and body.top_k < 0:
        raise invalid("topK", f"must be 0 or more, not {body.top_k}")


def read_change(body: wire.GeminiTunedModel, mask: str) -> dict[str, Any]:
    """Read the new values of a tuned model.

    Args:
        body: the tuned model with the new values.
        mask: comma-separated names of the fields to change, in either spelling; empty: the fields that are set.

    Returns:
        The new values, by the names of `TunedModelRow`.

    Raises:
        ServiceError: a field cannot be changed, or its new value is invalid.
    """
    names = [re.sub(r"([A-Z])", lambda m: f"_{m[1].lower()}", name.strip()) for name in mask.split(",") if name.strip()]
    for name in names:
        if name not in _CHANGEABLE:  # all others, or what they hold, are "output only" or "immutable" in the API
            changeable = ", ".join(to_camel(n) for n in _CHANGEABLE)
            raise invalid("updateMask", f"{name} cannot be changed; {changeable} can")
    chosen = names or [name for name in _CHANGEABLE if getattr(body, name) is not None]
    values = {name: getattr(body, name) for name in chosen}
    check_shown(wire.GeminiTunedModel(**values))  # not `body`: a field outside the mask is not changed
    for name in ("display_name", "description"):
        if name in values:
            values[name] = values[name] or ""
    if "reader_project_numbers" in values:
        values["reader_projects"] = tuple(values.pop("reader_project_numbers") or ())
    return values
