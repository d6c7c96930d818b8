"""Configs of the points of a sweep, fast: sections that a point does not change are validated once and shared.

A point that only sets existing leaves which no interpolation reads differs from the base config in these leaves alone.
So each section is cached by the values that a point sets in it, and only a section with new values is validated. Any
other point is composed and resolved as a whole, and so is a point with an error, so that its message is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from pydantic import create_model

from tunerun import dotted_keys
from tunerun.compose.resolution import Raw
from tunerun.compose.validation import fields_at, validate
from tunerun.provenance.places import FILES_OF_ROWS
from tunerun.schema import TrialConfig
from tunerun.section import Section

_WORDS = re.compile(r"\w+")
_COMPUTED = re.compile(r"\$\{[^}]*\$\{|\$\{[.\s]*\}")
"""An interpolation inside another one, or relative without a name: the text does not show which keys it reads."""


class SharedSections:
    """Makes the configs of points with the same group choices, from one composed config.

    Args:
        raw: the resolved config without the points' values, with absolute paths.
        unresolved: the same with its interpolations.
        marks: interpolations of values that came from the environment, by dotted key.
    """

    def __init__(self, raw: Raw, unresolved: Raw, marks: Mapping[str, str]) -> None:
        self._raw = raw
        self._marks = dict(marks)
        texts = [text for _, text in dotted_keys.texts(unresolved) if "${" in text]
        # A relative interpolation names the last part of a key alone, so single words are compared, not whole keys.
        self._read = {word for text in texts for word in _WORDS.findall(text)}
        self._all_read = any(_COMPUTED.search(text) for text in texts)
        self._is_known = raw.keys() <= TrialConfig.model_fields.keys()
        self._sections: dict[tuple[str, tuple[Any, ...]], Section | None] = {}
        self._is_free: dict[str, bool] = {}

    def config(self, values: Sequence[Override]) -> tuple[TrialConfig, dict[str, str]] | None:
        """Return the config with these values, and its marks; None: it has to be composed as a whole."""
        if not self._is_known:
            return None
        assigned: dict[str, list[tuple[str, Any]]] = {}
        for override in values:
            key, value = override.key_or_group, override.value()
            if not self._may_set(key, override, value):
                return None
            assigned.setdefault(key.partition(".")[0], []).append((key, value))
        sections = {}
        for name in TrialConfig.model_fields:
            own = assigned.get(name, [])
            # The type is part of the key: 1, 1.0 and True are equal in Python, but different values in a config.
            of_values = (name, tuple((key, type(value), value) for key, value in own))
            if of_values not in self._sections:
                raw = {name: deepcopy(self._raw[name])} if name in self._raw else {}
                for key, value in own:
                    dotted_keys.put(raw, key, value)
                self._sections[of_values], _ = validate(_alone(name), raw)
            section = self._sections[of_values]
            if section is None:
                return None
            sections[name] = getattr(section, name)
        config = TrialConfig.model_construct(**sections)
        if not self._marks:
            return config, {}
        set_here = {override.key_or_group for override in values}
        return config, {key: text for key, text in self._marks.items() if key not in set_here}

    def _may_set(self, key: str, override: Override, value: Any) -> bool:
        if key not in self._is_free:
            *above, name = key.split(".")
            # The path of a file of rows is looked up beside the YAML that names it, so its value depends on that, too.
            is_read = self._all_read or not self._read.isdisjoint([*above, name]) or key in FILES_OF_ROWS
            current = dotted_keys.get(self._raw, key, dotted_keys.MISSING)
            is_leaf = not isinstance(current, dict | list)
            if current is dotted_keys.MISSING:
                # YAML holds what differs from the schema's defaults: a key of the schema may be set in a section.
                is_known = name in fields_at(TrialConfig, above) and not fields_at(TrialConfig, [*above, name])
                is_leaf = is_known and isinstance(dotted_keys.get(self._raw, above), dict)
            self._is_free[key] = is_leaf and not is_read
        # Hydra merges a dictionary and resolves an interpolation; both are left to it.
        if override.type is not OverrideType.CHANGE or isinstance(value, dict | list):
            return False
        return self._is_free[key] and not (isinstance(value, str) and ("${" in value or value == "???"))


@cache
def _alone(name: str) -> type[Section]:
    """Return a model with a single field of TrialConfig, to validate that section alone."""
    field = TrialConfig.model_fields[name]
    model: type[Section] = create_model(name, __base__=Section, **{name: (field.annotation, field)})  # type: ignore[call-overload]
    return model
