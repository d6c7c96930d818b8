"""Reads files of rows in any of the supported formats, and reports all their problems at once."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tunerun.dataset.arrow_rows import arrow_rows, folder_rows, parquet_rows
from tunerun.dataset.findings import Findings, UnreadableError
from tunerun.dataset.formats import ENDINGS, NAMES, find_format
from tunerun.dataset.json_rows import json_rows, jsonl_rows
from tunerun.dataset.rows import Rows, listed
from tunerun.dataset.table_rows import DELIMITERS, delimited_rows
from tunerun.errors import DatasetError, close_name

_READERS: dict[str, Callable[[str, bytes], tuple[Rows, Findings]]] = {
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
    rows, findings = collect_rows(path, format)
    if findings:
        raise DatasetError(findings.lines())
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
    try:
        # Not decompressed: a small upload could expand to more than the memory.
        rows, findings = _rows(Path(name), Path(name), content, "auto", columns)
    except UnreadableError as error:
        raise DatasetError([error.line]) from error
    if findings:
        raise DatasetError(findings.lines())
    return rows


def collect_rows(path: Path, format_name: str, columns: Sequence[str] | None = None) -> tuple[Rows, Findings]:
    """Read the good rows of a file, as `read_rows` does, and return them with the problems and warnings.

    Args:
        path: the file, or a folder that `datasets` saved.
        format_name: a key of `formats.NAMES`, or `auto`.
        columns: the names of a table's columns, where it has no header.
    """
    try:
        if format_name not in ("auto", *NAMES):
            text = f"the format {format_name!r} is unknown; use auto, {', '.join(NAMES)}"
            raise UnreadableError("format", text)
        saved = folder_rows(path) if path.is_dir() else None
        if saved is not None:
            return saved
        content = _content(path)
        # By its first bytes, as a download may have lost or kept the ending `.gz`.
        for magic, (kind, decompress) in _COMPRESSIONS.items():
            if content.startswith(magic):
                try:
                    inner = decompress(content)
                except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                    text = f"{path}: is damaged or cut off {kind} data; write it again"
                    raise UnreadableError("compression", text) from error
                named = path.with_suffix("") if path.suffix.lower() in _COMPRESSED_ENDINGS else path
                return _rows(path, named, inner, format_name, columns)
        return _rows(path, path, content, format_name, columns)
    except UnreadableError as error:
        findings = Findings(str(path))
        findings.add(error.kind, error.line)
        return Rows(str(path), (), {}), findings


def _rows(
    path: Path, named: Path, content: bytes, format_name: str, columns: Sequence[str] | None
) -> tuple[Rows, Findings]:
    """Read rows from bytes; `named` is the path without the ending of its compression."""
    file = str(path)
    if not content.removeprefix(b"\xef\xbb\xbf").strip():  # the byte order mark that Windows tools begin UTF-8 with
        raise UnreadableError("path", f"{file}: is empty; add examples")
    format_of_file = find_format(named, content, format_name)
    is_table = format_of_file in DELIMITERS
    if columns is not None and not is_table:
        raise UnreadableError("columns", f"{file}: {NAMES[format_of_file]} names its columns; remove dataset.columns")
    try:
        if is_table:
            rows, findings = delimited_rows(file, content, format_of_file, columns)
        else:
            rows, findings = _READERS[format_of_file](file, content)
    except UnicodeDecodeError as error:
        # Readers decode line by line, so the error's position is not that in the file.
        where = ": is not UTF-8"  # a line `sep=` may name half a character in a file that is UTF-8 as a whole
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as first:
            line, byte = content.count(b"\n", 0, first.start) + 1, content[first.start]
            where = f":{line}: is not UTF-8 at byte {first.start:,} of the file (0x{byte:02x})"
        raise UnreadableError("encoding", f"{file}{where}; save it as UTF-8") from error
    if not rows and not findings:
        findings.add("rows", f"{file}: holds no rows; add examples")
    return rows, findings


def _zstd(content: bytes) -> bytes:
    import pyarrow  # here: it takes longer to import than the rest of this package together

    # Python itself reads zstd from 3.14 on.
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
"""Endings that are removed before the ending of the format is read, as in `train.csv.gz`."""


def _content(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            what = "is not a regular file"
            if path.is_dir():
                readable = sorted(file.name for file in path.iterdir() if file.suffix.lower() in ENDINGS)
                what = f"is a directory of {listed(readable)}" if readable else "is a directory"
            raise UnreadableError("path", f"{path}: {what}; name the file itself")
        return path.read_bytes()
    except FileNotFoundError as error:
        advice = f"not even the directory {path.parent}; correct the path"
        if path.parent.is_dir():
            close = close_name(path.name, (each.name for each in path.parent.iterdir()))
            advice = "correct the path" if close is None else f"the nearest name in its directory is {close!r}"
        raise UnreadableError("path", f"{path}: the file does not exist; {advice}") from error
    except OSError as error:
        what = f"cannot be read: {error.strerror}; check its permissions, or name another file"
        raise UnreadableError("path", f"{path}: {what}") from error
