"""Parses JSON bodies. An empty body is an empty object, since OpenAI's clients send none where there are no fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tunerun.service.core.problems import Code, Json, ServiceError

_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""JSON escapes can encode an unpaired surrogate, which cannot be stored or sent as UTF-8."""


def read_json(content: bytes) -> Any:
    """Parse a body; an empty one is an empty object.

    Raises:
        ServiceError: the body is not JSON in UTF-8, is nested too deeply, or repeats a name within an object.
    """
    if not content.strip():
        return {}
    try:
        text = content.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        if _MAY_BE_HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise _not_json("it contains an unpaired surrogate, which is not valid Unicode") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise _not_json(str(error)) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _not_json(why: str) -> ServiceError:
    return ServiceError(Code.INVALID_ARGUMENT, f"the body is not JSON in UTF-8: {why}")


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ServiceError(
            Code.INVALID_ARGUMENT, f"the body gives the name {twice[:60]!r} twice in one object; give it once"
        )
    return found
