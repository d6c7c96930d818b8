"""`config --explain`: the description of a key, whether or not the composed config sets it."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hydra.core.override_parser.types import Override
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tunerun import dotted_keys
from tunerun.compose.environment import with_marks
from tunerun.compose.loader import Loader
from tunerun.compose.source import GLOBAL_GROUPS
from tunerun.compose.validation import fields_at, members_of, models_in, near_key
from tunerun.errors import ConfigError
from tunerun.redaction import redact
from tunerun.schema import WORKED_OUT, Choices, Experiment

_UNITS = {"_s": "seconds", "_tokens": "tokens", "_usd": "US dollars", "_hours": "hours"}
"""Units by the ending of a key's name; all others are in the schema, beside the field."""

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LIMITS = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}


@dataclass(frozen=True)
class KeyField:
    """A field of the schema that a dotted key refers to; `only_with` names the choice of a union that has it."""

    field: FieldInfo
    only_with: str | None


def explanation(loader: Loader, overrides: Sequence[Override], key: str) -> dict[str, Any]:
    """Return the description of a key, as `config --explain --json` prints it.

    Raises:
        ConfigError: the key does not exist; names the nearest.
    """
    location = key.split(".")
    raw = with_marks(*loader.point_and_marks(overrides))
    is_set, is_group = dotted_keys.has(raw, location), loader.is_group(key)
    key_fields = list(fields_of(location))
    if not key_fields and not is_set and not is_group:
        # The first part that does not exist is what was misspelt; the suggestion is for that part.
        depths = range(len(location))
        depth = next(
            n for n in depths if not dotted_keys.has(raw, location[: n + 1]) and not [*fields_of(location[: n + 1])]
        )
        above, part = location[:depth], location[depth]
        names = [name for name in fields_at(Experiment, above) if above or name not in WORKED_OUT]
        names += [group for group in loader.groups() if not above and group not in names]
        raise ConfigError(f"{key}: no such key; {near_key(Experiment, above, part, names)}")
    fields = [each.field for each in key_fields]
    listed = [each for field in fields for each in field.metadata if isinstance(each, Choices)]
    summaries = {name: summary for choices in listed for name, summary in choices.summaries().items()}
    otherwise = "A key of a mapping whose keys are free."
    if is_group:
        otherwise = f"A group: {key}=CHOICE sets keys of all others." if key in GLOBAL_GROUPS else "A group."
    return {
        "key": key,
        "is_set": is_set,
        "value": dotted_keys.get(raw, location),
        "written_in": str(loader.origin(overrides, location)) if is_set else None,
        "description": _first([description_of(field) for field in fields]) or otherwise,
        "allowed": _first([allowed_in(field) for field in fields]),
        "choices": loader.options(key) if is_group else list(summaries) or choices_of(fields),
        "summaries": summaries,
        "unit": _first([unit_of(location[-1], field) for field in fields]),
        "default": _first([default_of(field) for field in fields]),
        "only_with": " or ".join(dict.fromkeys(each.only_with for each in key_fields if each.only_with)) or None,
    }


def text_of(explained: Mapping[str, Any]) -> str:
    """Return an explanation as text for the terminal."""
    # A default of `oc.env`, or a text in a YAML, may be a secret.
    value = redact(_written(explained["value"])) if explained["is_set"] else "(not in this config)"
    lines = [f"{explained['key']} = {value}", f"  {explained['description']}"]
    for head, name in (
        ("written in", "written_in"),
        ("allowed", "allowed"),
        ("unit", "unit"),
        ("default", "default"),
        ("only with", "only_with"),
    ):
        if explained[name] is not None:
            lines.append(f"  {head}: {explained[name]}")
    if explained["choices"]:
        lines.append(f"  choices: {', '.join(map(str, explained['choices']))}")
    lines.extend(f"    {name}: {summary}" for name, summary in explained["summaries"].items())
    return "\n".join(lines)


def fields_of(location: Sequence[str]) -> Iterator[KeyField]:
    """Yield the fields that a dotted key refers to: one for each member of a union that has it."""
    models: list[tuple[type[BaseModel], str | None]] = [(Experiment, None)]
    for depth, part in enumerate(location):
        fields = [(model.model_fields[part], cond) for model, cond in models if part in model.model_fields]
        if depth == 0 and part in WORKED_OUT:
            return
        if depth == len(location) - 1:
            yield from (KeyField(field, condition) for field, condition in fields)
        models = [
            (member, f"{'.'.join(location[: depth + 1])}.kind={tag}" if tag else condition)
            for field, condition in fields
            for member, tag in models_in(field.annotation)
        ]


def _first(texts: Sequence[Any]) -> Any:
    return next((text for text in texts if text is not None), None)


def description_of(field: FieldInfo) -> str | None:
    """Return the description of a key, else of the sections that it may hold; None: neither has one."""
    if field.description:
        return field.description
    documented = [model.__doc__ for model, _ in models_in(field.annotation) if model.__doc__]
    return " ".join(text.split("\n")[0] for text in documented) or None


def allowed_in(field: FieldInfo) -> str | None:
    """Return the values that a key may have, in words; None: it is a section."""
    words = [word for part in members_of(field.annotation) if (word := _word(part))]
    limits = [
        text.format(getattr(m, name)) for m in field.metadata for name, text in _LIMITS.items() if hasattr(m, name)
    ]
    return ", ".join([" or ".join(words), *limits]) if words else None


def _word(part: Any) -> str | None:
    origin = typing.get_origin(part)
    if origin is Annotated:
        return " or ".join(word for each in members_of(typing.get_args(part)[0]) if (word := _word(each)))
    if part is type(None):
        return "null"
    if origin is Literal:
        return "one of its choices"
    if origin in (list, tuple):
        inner = _word(typing.get_args(part)[0])
        return f"a list, each {inner}" if inner else "a list"
    if origin is dict:
        return "a mapping"
    return _WORDS.get(part) or ("a mapping of its keys" if isinstance(part, type) else "any value")


def choices_of(fields: Sequence[FieldInfo]) -> list[Any]:
    """Return the choices of a key; empty: it may have other values."""
    parts = [part for field in fields for part in members_of(field.annotation)]
    items = [item for part in parts if typing.get_origin(part) in (list, tuple) for item in typing.get_args(part)]
    literals = [part for part in [*parts, *items] if typing.get_origin(part) is Literal]
    return sorted({choice for literal in literals for choice in typing.get_args(literal)}, key=str)


def unit_of(name: str, field: FieldInfo) -> str | None:
    """Return the unit of a key, from its field or from the end of its name; None: it has none."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "unit" in extra:
        return str(extra["unit"])
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), None)


def default_of(field: FieldInfo) -> str:
    """Return the default of a key, as it is written in YAML."""
    if field.is_required():
        return "none; it must be given"
    value = field.get_default(call_default_factory=True)
    return _written(value.model_dump() if isinstance(value, BaseModel) else value)


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)
