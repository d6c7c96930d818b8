"""Content hashes over canonical JSON."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

_AT_ONCE = 10_000
"""Values whose JSON is in memory at once."""


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value in canonical form, as 64 hexadecimal digits.

    Canonical: keys sorted, no white space, UTF-8. Floats are written as Python's shortest repr.

    Raises:
        ValueError: a float is NaN or infinite, which JSON cannot hold.
        TypeError: it is not a JSON value.
    """
    # Keys of trials are made by this: whatever changes its result makes every trial run again.
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def digest_of_list(values: Iterable[object]) -> str:
    """Return the `digest` of a list of these values, without its whole text in memory.

    Args:
        values: JSON values; read once.
    """
    sha = hashlib.sha256(b"[")
    iterator, separator = iter(values), ""
    while some := list(itertools.islice(iterator, _AT_ONCE)):
        sha.update(f"{separator}{_canonical(some)[1:-1]}".encode())
        separator = ","
    sha.update(b"]")
    return sha.hexdigest()


def digest_of_file(file: Path) -> str:
    """Return the SHA-256 of a file's content, as 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
