"""Reads files of rows in any of the supported formats, and reports all their problems at once."""

from __future__ import annotations

import bz2
import difflib
import gzip
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tunerun.dataset.arrow_rows import arrow_rows, folder_rows, parquet_rows
from tunerun.dataset.formats import ENDINGS, NAMES, find_format
from tunerun.dataset.json_rows import json_rows, jsonl_rows
from tunerun.dataset.rows import Findings, Rows, listed
from tunerun.dataset.table_rows import DELIMITERS, delimited_rows
from tunerun.errors import DatasetError

_READERS: dict[str, Callable[[str, bytes, Findings], Rows]] = {
    "json": json_rows,
    "jsonl": jsonl_rows,
    "parquet": parquet_rows,
    "arrow": arrow_rows,
}
"""Reader of each format; the formats of `DELIMITERS` have one that also takes the names of the columns."""


def read_rows(path: Path, format: str = "auto") -> Rows:  # noqa: A002 - the config's own word
    """Read the rows of a file.

    Args:
        path: the file, which may be compressed, or a folder that `datasets` saved; errors and rows name it as it is
            given here.
        format: a key of `formats.NAMES`; auto: by the file's ending, then by looking into it.

    Raises:
        DatasetError: every problem of the file, one line each.
    """
    findings = Findings()
    rows = collect_rows(path, format, findings)
    if findings:
        raise DatasetError(findings.lines)
    return rows


def read_content(name: str, content: bytes, columns: Sequence[str] | None = None) -> Rows:
    """Read the rows of a file that a client sends, as `read_rows` does; compressed content is not read.

    Args:
        name: what errors and rows call it; its ending says the format.
        content: all bytes of the file.
        columns: the names of a table's columns, where it has no header; empty: `column 1` and so on.

    Raises:
        DatasetError: every problem of the file, one line each.
    """
    findings = Findings()
    rows = _rows(Path(name), Path(name), content, "auto", columns, findings)
    if findings:
        raise DatasetError(findings.lines)
    return rows


def collect_rows(path: Path, format_name: str, findings: Findings, columns: Sequence[str] | None = None) -> Rows:
    """Read the good rows of a file, as `read_rows` does; problems and warnings are added to `findings`.

    Args:
        path: the file, or a folder that `datasets` saved.
        format_name: a key of `formats.NAMES`, or `auto`.
        findings: where problems go.
        columns: the names of a table's columns, where it has no header.
    """
    none = Rows(str(path), (), {})
    if format_name not in ("auto", *NAMES):
        findings.add("format", f"the format {format_name!r} is unknown; use auto, {', '.join(NAMES)}")
        return none
    saved = folder_rows(path, findings) if path.is_dir() else None
    if saved is not None:
        return saved
    content = _content(path, findings)
    if content is None:
        return none
    for magic, (ending, decompressed) in _COMPRESSIONS.items():
        if content.startswith(magic):
            inner = _decompressed(path, content, ending, decompressed, findings)
            named = path.with_suffix("") if path.suffix.lower() in _COMPRESSED_ENDINGS else path
            return none if inner is None else _rows(path, named, inner, format_name, columns, findings)
    return _rows(path, path, content, format_name, columns, findings)


def _rows(
    path: Path, named: Path, content: bytes, format_name: str, columns: Sequence[str] | None, findings: Findings
) -> Rows:
    """Read rows from bytes; `named` is the path without the ending of its compression."""
    file = str(path)
    none = Rows(file, (), {})
    if not content.removeprefix(b"\xef\xbb\xbf").strip():
        findings.add("path", f"{file}: is empty; add examples")
        return none
    found = find_format(named, content, format_name, findings)
    if found is None:
        return none
    before = len(findings)
    if columns is not None and found not in DELIMITERS:
        findings.add("columns", f"{file}: {NAMES[found]} names its columns; remove dataset.columns")
        return none
    try:
        if found in DELIMITERS:
            rows = delimited_rows(file, content, found, findings, columns)
        else:
            rows = _READERS[found](file, content, findings)
    except UnicodeDecodeError:
        findings.add("encoding", _not_utf_8(file, content))
        return none
    if not rows and len(findings) == before:
        findings.add("rows", f"{file}: holds no rows; add examples")
    return rows


def _zstd(content: bytes) -> bytes:
    import pyarrow  # here: it takes longer to import than the rest of this package together

    decompressed: bytes = pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read()
    return decompressed


_COMPRESSIONS: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ": ("xz", lzma.decompress),
}
"""By the first bytes of a compressed file: the name of the compression, and its decompressor."""

_COMPRESSED_ENDINGS = frozenset({".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz"})


def _decompressed(
    path: Path, content: bytes, kind: str, decompress: Callable[[bytes], bytes], findings: Findings
) -> bytes | None:
    try:
        return decompress(content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        findings.add("compression", f"{path}: is damaged or cut off {kind} data; write it again")
        return None


def _content(path: Path, findings: Findings) -> bytes | None:
    try:
        if path.exists() and not path.is_file():
            findings.add("path", f"{path}: {_not_a_file(path)}; name the file itself")
            return None
        return path.read_bytes()
    except FileNotFoundError:
        findings.add("path", f"{path}: the file does not exist; {_nearest_file(path)}")
    except OSError as error:
        findings.add("path", f"{path}: cannot be read: {error.strerror}; check its permissions, or name another file")
    return None


def _not_a_file(path: Path) -> str:
    if not path.is_dir():
        return "is not a regular file"
    known = sorted(file.name for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    return f"is a directory of {listed(known)}" if known else "is a directory"


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"not even the directory {folder}; correct the path"
    close = difflib.get_close_matches(path.name, [each.name for each in folder.iterdir()], n=1)
    return f"the nearest name in its directory is {close[0]!r}" if close else "correct the path"


def _not_utf_8(file: str, content: bytes) -> str:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 at byte {error.start:,} of the file (0x{content[error.start]:02x})"
        return f"{file}:{line}: {what}; save it as UTF-8"
    return f"{file}: is not UTF-8; save it as UTF-8"
