"""Strict parsing of JSON (RFC 8259), and comparison of its values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any


class NotJsonError(ValueError):
    """A text is not JSON."""


def read_json(text: str) -> Any:
    """Return the value of a JSON text (RFC 8259), with numbers as decimals.

    Raises:
        NotJsonError: it is not JSON; NaN and Infinity, which Python's parser accepts, are not.
    """

    def refuse(constant: str) -> None:
        raise NotJsonError(f"{constant} is not JSON")

    try:
        # Numbers as decimals: 0.1 and 0.10 are equal, and integers beyond 2^53 keep their digits.
        return json.loads(text, parse_constant=refuse, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise NotJsonError(str(error)) from error


def fields_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the leaves of a value with their paths; a value that is not an object is one leaf with an empty path."""
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from fields_of(below, (*path, key))
    else:
        yield path, value


def are_equal(left: Any, right: Any) -> bool:
    """Return whether two JSON values are the same; 1 and 1.0 are, 1 and true are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(are_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(are_equal(left[key], right[key]) for key in left)
    return bool(left == right)
