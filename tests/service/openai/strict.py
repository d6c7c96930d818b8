"""What the SDK's own types say of a document: that it is one of them, in strict mode, and which fields they do not know."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from openai import BaseModel

Type = TypeVar("Type", bound=BaseModel)


def parsed(type_: type[Type], document: dict[str, Any]) -> Type:
    """A document as a type of the SDK, validated as its strict mode does; fails on a field that the type has not."""
    found = type_.model_validate(json.loads(json.dumps(document, allow_nan=False)), strict=False)
    assert unknown(found) == []
    return found


def unknown(value: object, path: str = "") -> list[str]:
    """The paths of what the types of the SDK do not know."""
    if isinstance(value, BaseModel):
        found = [f"{path}.{name}" for name in value.model_extra or {}]
        for name in value.model_fields_set & type(value).model_fields.keys():
            found += unknown(getattr(value, name), f"{path}.{name}")
        return found
    return [each for one in value for each in unknown(one, f"{path}[]")] if isinstance(value, list) else []
