"""Read a file of rows, whatever its format, and say everything that is wrong with it at once."""

from __future__ import annotations

import difflib
from pathlib import Path

from tunerun.dataset.formats import NAMES, find_format
from tunerun.dataset.json_rows import json_rows, jsonl_rows
from tunerun.dataset.rows import Findings, Rows
from tunerun.dataset.table_rows import delimited_rows, parquet_rows
from tunerun.errors import DatasetError


def read_rows(path: Path, format: str = "auto") -> Rows:  # noqa: A002 - the config's own word
    """Read the rows of a file in their order.

    Args:
        path: the file; errors and rows name it as it is given here.
        format: json, jsonl, csv, tsv or parquet; auto: by the file's ending, then by looking into it.

    Raises:
        DatasetError: every problem of the file, one line each.
    """
    findings = Findings()
    rows = collect_rows(path, format, findings)
    if findings:
        raise DatasetError(findings.lines)
    return rows


def read_content(name: str, content: bytes) -> Rows:
    """Read the rows of a file that somebody has sent, as `read_rows` does.

    Args:
        name: what errors and rows call it; its ending says the format.

    Raises:
        DatasetError: every problem of the file, one line each.
    """
    findings = Findings()
    rows = _rows(Path(name), content, "auto", findings)
    if findings:
        raise DatasetError(findings.lines)
    return rows


def collect_rows(path: Path, format_name: str, findings: Findings) -> Rows:
    """Read the rows that can be read, as `read_rows`; problems are added to `findings`."""
    if format_name not in ("auto", *NAMES):
        findings.add("format", f"the format {format_name!r} is unknown; use auto, {', '.join(NAMES)}")
        return Rows(str(path), (), {})
    content = _content(path, findings)
    return Rows(str(path), (), {}) if content is None else _rows(path, content, format_name, findings)


def _rows(path: Path, content: bytes, format_name: str, findings: Findings) -> Rows:
    if not content.removeprefix(b"\xef\xbb\xbf").strip():
        findings.add("path", f"{path}: is empty; add examples")
        return Rows(str(path), (), {})
    found = find_format(path, content, format_name, findings)
    before = len(findings)
    rows = _parsed(path, content, found, findings) if found else Rows(str(path), (), {})
    if found and not rows and len(findings) == before:
        findings.add("rows", f"{path}: holds no rows; add examples")
    return rows


def _parsed(path: Path, content: bytes, format_name: str, findings: Findings) -> Rows:
    file = str(path)
    if format_name == "parquet":
        return parquet_rows(file, content, findings)
    text = _text(file, content, findings)
    if text is None:
        return Rows(str(path), (), {})
    if format_name == "json":
        return json_rows(file, text, findings)
    if format_name == "jsonl":
        return jsonl_rows(file, text, findings)
    return delimited_rows(file, text, format_name, findings)


def _content(path: Path, findings: Findings) -> bytes | None:
    try:
        if path.exists() and not path.is_file():
            findings.add("path", f"{path}: {_not_a_file(path)}; name the file itself")
            return None
        return path.read_bytes()
    except FileNotFoundError:
        findings.add("path", f"{path}: there is no such file; {_nearest_file(path)}")
    except OSError as error:
        findings.add("path", f"{path}: cannot be read: {error.strerror}; mend that, or name another file")
    return None


def _not_a_file(path: Path) -> str:
    return "is a directory" if path.is_dir() else "is no regular file"


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"not even the directory {folder}; correct the path"
    close = difflib.get_close_matches(path.name, [each.name for each in folder.iterdir()], n=1)
    return f"the nearest name in its directory is {close[0]!r}" if close else "correct the path"


def _text(file: str, content: bytes, findings: Findings) -> str | None:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"is not UTF-8 at byte {error.start:,} of the file (0x{content[error.start]:02x})"
        findings.add("encoding", f"{file}:{line}: {what}; save it as UTF-8")
        return None
