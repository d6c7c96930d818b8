"""Checksums of rows, which detect bytes that changed on the disk. They do not protect against tampering."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

_PIECE = 1_000_000
"""Characters."""


def row_checksum(*values: Any) -> int:
    """Return a checksum of a row's columns, in their order, as an integer that SQLite can hold."""
    # Most values are texts; a call for each value would take twice the time (10,000 jobs: 0.2 s).
    parts = [value if type(value) is str else _text(value) for value in values]
    if sum(map(len, parts)) <= _PIECE:
        checksum = blake2b("\x1f".join(parts).encode(), digest_size=8)
    else:  # the same, without two more copies in memory: examples may have hundreds of megabytes
        checksum = blake2b(digest_size=8)
        for position, part in enumerate(parts):
            if position:
                checksum.update(b"\x1f")
            for start in range(0, len(part), _PIECE):
                checksum.update(part[start : start + _PIECE].encode())
    return int.from_bytes(checksum.digest(), "big", signed=True)


def with_checksum(*values: object) -> tuple[object, ...]:
    """Return a row's columns followed by their checksum."""
    return (*values, row_checksum(*values))


def _text(value: Any) -> str:
    if isinstance(value, str):  # a state
        return str(value)
    # Integers as floats: SQLite returns a float for an integer that was written into a REAL column.
    return repr(float(value) if isinstance(value, int) else value)


def snapshot_checksum(job: int, step: int, epoch: int, mean_loss: float, compute_time: float) -> int:
    """Return the checksum of a point of a loss curve."""
    # A third of the time of `row_checksum`: there may be millions of points.
    return zlib.crc32(struct.pack("<qqqdd", job, step, epoch, mean_loss, compute_time))


def is_whole(row: Sequence[Any]) -> bool:
    """Whether the last column of a row is the checksum of the others."""
    *values, checksum = row
    return bool(row_checksum(*values) == checksum)


def is_whole_snapshot(row: Sequence[Any]) -> bool:
    """As `is_whole`, for a point of a loss curve."""
    *values, checksum = row
    try:
        return bool(snapshot_checksum(*values) == checksum)
    except (TypeError, struct.error):  # a flipped byte can change the type of a value
        return False
