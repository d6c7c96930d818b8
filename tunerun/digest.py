"""Content hashes over canonical JSON."""

from __future__ import annotations

import hashlib
import json


def digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form, as 64 hexadecimal digits.

    Canonical: keys sorted, no white space, UTF-8, no NaN. Floats are written as Python's shortest repr.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
