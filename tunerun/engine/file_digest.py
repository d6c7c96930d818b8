"""Digests of large files, computed once per content: remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path


def sha256(file: Path, cache: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, from the cache if its size and time are unchanged."""
    path = file.resolve()
    state = path.stat()
    stamp = [str(path), state.st_size, state.st_mtime_ns]
    record = cache / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: compute it anew
        remembered = json.loads(record.read_text(encoding="utf-8"))
        if remembered["stamp"] == stamp:
            return str(remembered["sha256"])
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = record.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
        partial.replace(record)
    return digest
