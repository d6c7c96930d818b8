"""The cached digest of a file changes with its content, however that was changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tunerun.engine import file_digest

BIG = file_digest.READ_WHOLE_BYTES + 1


@pytest.mark.parametrize("size", [10, BIG])
def test_change_that_restores_size_and_time(size: int, tmp_path: Path) -> None:
    """A changed byte changes the digest even if size and modification time are the same."""
    file, cache = tmp_path / "weights", tmp_path / "cache"
    file.write_bytes(bytes(size))
    before, state = file_digest.sha256(file, cache), file.stat()
    with file.open("r+b") as stream:
        stream.seek(size - 5)
        stream.write(b"x")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    assert file_digest.sha256(file, cache) == hashlib.sha256(file.read_bytes()).hexdigest() != before


def test_file_that_replaces_another(tmp_path: Path) -> None:
    """A file of the same size and time that is moved to the path has its own digest."""
    file, other, cache = tmp_path / "weights", tmp_path / "other", tmp_path / "cache"
    file.write_bytes(bytes(BIG))
    other.write_bytes(bytes(BIG - 9) + b"x" * 9)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    before = file_digest.sha256(file, cache)
    other.replace(file)
    assert file_digest.sha256(file, cache) != before


def test_digest_of_an_unchanged_file_is_cached(tmp_path: Path) -> None:
    """The second call for a large file returns the cached digest; a damaged record is ignored."""
    file, cache = tmp_path / "weights", tmp_path / "cache"
    file.write_bytes(bytes(BIG))
    digest = file_digest.sha256(file, cache)
    (record,) = (cache / "digests").iterdir()
    record.write_text(record.read_text().replace(digest, "f" * 64))
    assert file_digest.sha256(file, cache) == "f" * 64
    record.write_text("damaged")
    assert file_digest.sha256(file, cache) == digest
