"""Digests of files, cached for large files by path, state and a sample of the content."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from tunerun.digest import digest_of_file
from tunerun.files import replacing

READ_WHOLE_BYTES = 1 << 20
"""Files up to this size are read each time, which takes about a millisecond."""

_SAMPLES = 16
_SAMPLE_BYTES = 4096


def sha256(file: Path, cache: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content.

    For a large file the cached digest is used if size, times, inode and a sample of the bytes are unchanged.

    Args:
        file: may be a link.
        cache: the cache directory; if it cannot be written, the digest is computed each time.

    Raises:
        OSError: the file cannot be read.
    """
    path = file.resolve()
    state = path.stat()
    if state.st_size <= READ_WHOLE_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    # A program that restores the modification time (mtime) cannot restore the change time (ctime).
    stamp = [str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, _sample(path, state.st_size)]
    record = cache / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: compute it again
        remembered = json.loads(record.read_text(encoding="utf-8"))
        if remembered["stamp"] == stamp:
            return str(remembered["sha256"])
    digest = digest_of_file(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        record.parent.mkdir(parents=True, exist_ok=True)
        with replacing(record) as aside:
            aside.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
    return digest


def _sample(path: Path, size: int) -> str:
    """Return a digest of evenly spaced blocks, including the first and the last one."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        for number in range(_SAMPLES):
            content.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()
