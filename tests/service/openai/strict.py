"""Validates JSON by the SDK's own types, as its strict mode does, and finds fields that they do not have."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from openai import BaseModel

Type = TypeVar("Type", bound=BaseModel)


def parsed(type_: type[Type], document: dict[str, Any]) -> Type:
    """Return a document as a type of the SDK; fails if it is invalid or has a field that the type does not have."""
    parsed_model = type_.model_validate(json.loads(json.dumps(document, allow_nan=False)), strict=False)
    assert unknown(parsed_model) == []
    return parsed_model


def unknown(value: object, path: str = "") -> list[str]:
    """Return the paths of the fields that the types of the SDK do not have."""
    if isinstance(value, BaseModel):
        names = [f"{path}.{name}" for name in value.model_extra or {}]
        for name in value.model_fields_set & type(value).model_fields.keys():
            names += unknown(getattr(value, name), f"{path}.{name}")
        return names
    return [each for one in value for each in unknown(one, f"{path}[]")] if isinstance(value, list) else []
