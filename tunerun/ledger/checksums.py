"""Checksums of rows, by which a byte that has changed on the disk is found. They are no protection against intent."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

_PIECE = 1_000_000
"""Characters."""


def row_checksum(*values: Any) -> int:
    """A checksum of a row's columns, in their order, as an integer that SQLite can hold.

    Numbers count as floats, as SQLite gives the integers back that are written into a REAL column.
    """
    # Most are texts; a call for each value would take twice the time (10,000 jobs: 0.2 s).
    parts = [value if type(value) is str else _text(value) for value in values]
    if sum(map(len, parts)) > _PIECE:
        return _in_pieces(parts)
    digest = blake2b("\x1f".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _in_pieces(parts: Sequence[str]) -> int:
    """The same without two more copies of a set of examples in memory, which may have hundreds of megabytes."""
    found = blake2b(digest_size=8)
    for position, part in enumerate(parts):
        if position:
            found.update(b"\x1f")
        for start in range(0, len(part), _PIECE):
            found.update(part[start : start + _PIECE].encode())
    return int.from_bytes(found.digest(), "big", signed=True)


def with_checksum(*values: object) -> tuple[object, ...]:
    """A row's columns with their checksum behind them."""
    return (*values, row_checksum(*values))


def _text(value: Any) -> str:
    if isinstance(value, str):  # a state
        return str(value)
    return repr(float(value) if isinstance(value, int) else value)


def snapshot_checksum(job: int, step: int, epoch: int, mean_loss: float, compute_time: float) -> int:
    """The same of a point of a loss curve, of which there may be millions: a third of the time."""
    return zlib.crc32(struct.pack("<qqqdd", job, step, epoch, mean_loss, compute_time))


def is_whole(row: Sequence[Any]) -> bool:
    """Whether a row whose last column is the checksum of the others is as it was written."""
    *values, checksum = row
    return bool(row_checksum(*values) == checksum)


def is_whole_snapshot(row: Sequence[Any]) -> bool:
    """The same of a point of a loss curve."""
    *values, checksum = row
    try:
        return bool(snapshot_checksum(*values) == checksum)
    except (TypeError, struct.error):  # a flipped byte can change the type of a value
        return False
