"""The JSON of a request's body, read as Google's services read it.

A comma before a closing bracket is accepted, because the cURL examples of the Gemini API's tuning guide have it. A name
that an object has twice is refused, in either of proto3's spellings: a proxy in front may have read the other one.
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

# Possessive, and a string that never ends matches up to the end: linear in the text, whatever it holds.
_ALL_BUT_LAST_COMMAS = re.compile(r'((?:[^",]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|,(?!\s*+[}\]]))++)|,', re.DOTALL)

MAX_LAST_COMMAS = 500_000
"""One for each example that a request may have, and more; 8 million of them took 10 s."""


def read_json(content: bytes) -> Any:
    """Read a body.

    Raises:
        ServiceError: it is not JSON in UTF-8, is nested too deeply, or an object in it gives a name twice.
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
        raise _not_json(error.msg) from error  # its place would be one in the text without the commas
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise _not_json(str(error)) from error


def _not_json(why: str) -> ServiceError:
    return ServiceError(Code.INVALID_ARGUMENT, f"the body is not JSON in UTF-8: {why}")


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _twice(counts.most_common(1)[0][0])
    for name in found:
        if "_" in name and _camel(name) != name and _camel(name) in found:
            raise _twice(_camel(name))
    return found


def _twice(name: str) -> ServiceError:
    return ServiceError(
        Code.INVALID_ARGUMENT, f"the body gives the name {name[:60]!r} twice in one object; give it once"
    )
