"""Digests of files, of large ones computed once: remembered by the file's place, state and a sample of its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from tunerun.files import replacing

READ_WHOLE_BYTES = 1 << 20
"""A file up to this size is read each time; that takes about a millisecond."""

_SAMPLES = 16
_SAMPLE_BYTES = 4096


def sha256(file: Path, cache: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.

    That of a large file comes from the cache if nothing about the file has changed: not its size, its times (the time
    of the last change of state cannot be set back by a program that restores the time of the last write), its inode,
    nor bytes at places all over it.
    """
    path = file.resolve()
    state = path.stat()
    if state.st_size <= READ_WHOLE_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = [str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, _sample(path, state.st_size)]
    record = cache / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: compute it again
        remembered = json.loads(record.read_text(encoding="utf-8"))
        if remembered["stamp"] == stamp:
            return str(remembered["sha256"])
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        record.parent.mkdir(parents=True, exist_ok=True)
        with replacing(record) as aside:
            aside.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
    return digest


def _sample(path: Path, size: int) -> str:
    """Return a digest of blocks at even distances, the first and the last included."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        for number in range(_SAMPLES):
            content.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()
