"""Parses the JSON of a request's body as Google's services do.

A comma before a closing bracket is accepted, because the cURL examples of the Gemini API's tuning guide have it. An
object that repeats a name is refused, also if the two are in different spellings of proto3: a proxy in front of the
service may have read the other one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache
from typing import Any

from pydantic.alias_generators import to_camel

from tunerun.service.core.problems import Code, Json, ServiceError

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
    try:
        text = content.decode("utf-8-sig")
        try:
            return json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            lenient = _ALL_BUT_LAST_COMMAS.sub(r"\1", text, count=MAX_LAST_COMMAS)
            if len(lenient) == len(text):
                raise _not_json(f"{error.msg} (line {error.lineno}, column {error.colno})") from error
            return json.loads(lenient, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise _not_json(error.msg) from error  # without its place, which is one in the text without the commas
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise _not_json(str(error)) from error


def _not_json(why: str) -> ServiceError:
    return ServiceError(Code.INVALID_ARGUMENT, f"the body is not JSON in UTF-8: {why}")


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice: str | None = Counter(name for name, _ in pairs).most_common(1)[0][0]
    else:
        spelled = (_camel(name) for name in found if "_" in name and _camel(name) != name)
        twice = next((name for name in spelled if name in found), None)
    if twice is not None:
        words = f"the body gives the name {twice[:60]!r} twice in one object; give it once"
        raise ServiceError(Code.INVALID_ARGUMENT, words)
    return found
