"""Parses the JSON of a request's body as Google's services do.

A comma before a closing bracket is accepted, because the cURL examples of the Gemini API's tuning guide have it. An
object that repeats a name is refused, also if the two are in different spellings of proto3: a proxy in front of the
service may have read the other one.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from pydantic.alias_generators import to_camel

from tunerun.service.core.problems import Json
from tunerun.service.json_errors import not_json, refusing_bad_json, repeated, unique

_camel = lru_cache(maxsize=4096)(to_camel)

# Possessive quantifiers, and an unclosed string matches up to the end: the time is linear in the text, whatever it is.
_ALL_BUT_LAST_COMMAS = re.compile(r'((?:[^",]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|,(?!\s*+[}\]]))++)|,', re.DOTALL)

MAX_LAST_COMMAS = 500_000
"""More than one for each example that a request may have. Without a limit, 8 million commas took 10 s."""


def read_json(content: bytes) -> Any:
    """Parse a body.

    Raises:
        ServiceError: the body is not JSON in UTF-8, is nested too deeply, or repeats a name within an object.
    """
    with refusing_bad_json():
        text = content.decode("utf-8-sig")
        try:
            return json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError:
            lenient = _ALL_BUT_LAST_COMMAS.sub(r"\1", text, count=MAX_LAST_COMMAS)
            if len(lenient) == len(text):
                raise
        try:
            return json.loads(lenient, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise not_json(error.msg) from error  # without its place, which is one in the text without the commas


def _object(pairs: list[tuple[str, Any]]) -> Json:
    value = unique(pairs)
    for name in value:
        if "_" in name and _camel(name) != name and _camel(name) in value:
            raise repeated(_camel(name))
    return value
