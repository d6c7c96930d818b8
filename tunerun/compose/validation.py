"""Translates errors of pydantic into messages: where a value was written, its dotted key, and what to do."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunerun.errors import did_you_mean
from tunerun.schema import DATE, SLUG
from tunerun.section import VARIABLE, Section

Location = tuple[str | int, ...]
SectionType = TypeVar("SectionType", bound=BaseModel)

# By pydantic's type of error; its own messages speak of Python's types, such as "a valid integer".
_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text; quote it if YAML reads it as something else",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number, not NaN or infinity",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
}


_PATTERNS = {
    SLUG: "must be a slug: small letters, digits, - and _, a letter first, such as next_number",
    DATE: "must be a date, such as 2026-11-22",
    VARIABLE: "must be the name of an environment variable, such as GEMINI_API_KEY",
}


def validate(
    model: type[SectionType], raw: Mapping[str, Any], groups: Sequence[str] = ()
) -> tuple[SectionType | None, list[tuple[Location, str]]]:
    """Validate a plain config.

    Args:
        groups: names that may be suggested for a misspelt name at the top level, besides the model's fields.

    Returns:
        The model, or None and every problem with its location.
    """
    problems: list[tuple[Location, str]] = []
    # Through JSON, so that strict mode takes lists for tuples, and the config is known to have a digest.
    text = json.dumps(raw)
    missing = missing_keys(raw) if '"???"' in text else []
    problems.extend(
        (key, f"is missing; give it a value: {'.'.join(key)}=VALUE, or an experiment that has one: experiment=NAME")
        for key in missing
    )
    try:
        validated = model.model_validate_json(text)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            location = _without_tags(raw, detail["loc"])
            # Pydantic locates a wrong `kind` at the section; the reader has to change the key.
            if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
                location = (*location, str(detail["ctx"]["discriminator"]).strip("'"))
            if location not in missing:
                problems.append((location, _message(model, detail, groups)))
        return None, problems
    return (None, problems) if problems else (validated, problems)


def _without_tags(raw: Mapping[str, Any], location: Location) -> Location:
    """Remove the tag of a union's member that pydantic puts into a location (`backend.gemini.base_url`)."""
    without: list[str | int] = []
    node: Any = raw
    for position, part in enumerate(location):
        is_tag = isinstance(node, Mapping) and part not in node and node.get("kind") == part
        if is_tag and position < len(location) - 1:
            continue
        without.append(part)
        node = node.get(part) if isinstance(node, Mapping) else None
    return tuple(without)


def missing_keys(raw: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the keys of a plain config whose value is still `???`."""
    missing = []
    for key, value in raw.items():
        if isinstance(value, Mapping):
            missing.extend(missing_keys(value, (*prefix, key)))
        elif value == "???":
            missing.append((*prefix, key))
    return missing


def _message(model: type[BaseModel], detail: Mapping[str, Any], groups: Sequence[str]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "extra_forbidden":
        above = detail["loc"][:-1]
        keys = fields_at(model, above) if above else sorted({*fields_at(model, ()), *groups})
        return f"unknown key {detail['loc'][-1]!r}; {near_key(model, above, str(detail['loc'][-1]), keys)}"
    if kind in ("missing", "union_tag_not_found"):
        return "is missing; give it a value"
    if kind in ("literal_error", "union_tag_invalid"):
        choices = context["expected" if kind == "literal_error" else "expected_tags"]
        value = context.get("tag", value)
        hint = did_you_mean(str(value), choices.replace(" or ", ", ").replace("'", "").split(", "))
        return f"must be one of {choices}" + (f"; {hint}" if hint else "")
    if kind == "value_error":
        return str(context["error"])
    text = _KINDS.get(kind) or _PATTERNS.get(context.get("pattern", ""))
    # Pydantic turns the limit 0 of a float field into 0.0.
    limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
    message = text.format(**limits) if text else detail["msg"]
    # Numbers are shown; text is not, since it may be a key that was pasted into the wrong place.
    is_shown = text is not None and isinstance(value, int | float) and kind != "finite_number"
    return f"{message}, not {value}" if is_shown else message


def near_key(model: type[BaseModel], above: Sequence[str | int], name: str, names: Sequence[str]) -> str:
    """Return which key may be meant by an unknown one: a key of one of the sections, a similar name, or all names.

    Args:
        model: of the whole config.
        above: the location of the section in which the key is unknown.
        name: the unknown key.
        names: of the keys of that section.
    """
    # `epoch_count=3` lacks its section.
    sections = [] if above else [section for section in model.model_fields if name in fields_at(model, [section])]
    if len(sections) == 1:
        return f"did you mean '{sections[0]}.{name}'?"
    return did_you_mean(name, names) or f"known keys: {', '.join(names)}"


def fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the names of the fields at a location of a model; empty where keys are free."""
    current: list[type[BaseModel]] = [model]
    for key in location:
        tagged = [member for member in current if _tag(member) == key]
        fields = [member.model_fields[str(key)] for member in current if str(key) in member.model_fields]
        current = tagged or [member for field in fields for member, _ in models_in(field.annotation)]
    return list(dict.fromkeys(name for member in current for name in member.model_fields))


def _tag(model: type[BaseModel]) -> str | None:
    """Return the `kind` of a union's member; None: it has none."""
    kind = model.model_fields.get("kind")
    values = typing.get_args(kind.annotation) if kind is not None else ()
    return str(values[0]) if len(values) == 1 else None


def models_in(annotation: Any) -> Iterator[tuple[type[BaseModel], str | None]]:
    """Yield the models that a field may hold, each with its `kind` in a union."""
    sections = [part for part in members_of(annotation) if isinstance(part, type) and issubclass(part, Section)]
    models = [member for section in sections for member in section.members()]
    for model in models:
        yield model, _tag(model) if len(models) > 1 else None


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union; of any other type the type itself."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)
