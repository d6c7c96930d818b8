"""Refusals of bodies that are not JSON, for the parsers of both wires."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunerun.service.core.problems import Code, Json, ServiceError


@contextmanager
def refusing_bad_json() -> Iterator[None]:
    """Translate the errors of decoding and parsing a body.

    Raises:
        ServiceError: the body is not JSON in UTF-8, or is nested too deeply.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        raise not_json(f"{error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError:
        raise not_json("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise not_json("it contains an unpaired surrogate, which is not valid Unicode") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise not_json(str(error)) from error


def not_json(why: str) -> ServiceError:
    """Return the error for a body that cannot be parsed."""
    return ServiceError(Code.INVALID_ARGUMENT, f"the body is not JSON in UTF-8: {why}")


def repeated(name: str) -> ServiceError:
    """Return the error for an object that repeats a name: a proxy in front may have read the other value."""
    words = f"the body gives the name {name[:60]!r} twice in one object; give it once"
    return ServiceError(Code.INVALID_ARGUMENT, words)


def unique(pairs: list[tuple[str, Any]]) -> Json:
    """Return an object of a body; an `object_pairs_hook` of `json.loads`.

    Raises:
        ServiceError: a name is repeated.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        # A Counter: `list.count` for each of 200,000 names, which is a body within the limit, is quadratic.
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise repeated(twice)
    return value
