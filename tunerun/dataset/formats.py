"""Which format a file has: what was asked for, what its ending says, and what its bytes look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunerun.dataset.rows import Findings

ENDINGS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}

NAMES = {"json": "JSON", "jsonl": "JSON lines", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet"}

PARQUET_MAGIC = b"PAR1"

SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"%PDF", "a PDF document"),
    (b"SQLite format 3", "a SQLite database"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (git lfs pull fetches it)"),
    (b"<!doctype", "HTML"),
    (b"<html", "HTML"),
    (b"<?xml", "XML"),
)
"""How files begin that people take for examples (letters may be of either case); from the formats' specifications."""

CHAT_KEYS = ("messages", "contents")
"""Lists under these keys are one conversation, not a list of rows."""


def find_format(path: Path, content: bytes, asked: str, findings: Findings) -> str | None:
    """Return a key of `NAMES`, or None after saying what the file looks like instead.

    Args:
        path: for its ending and for the message.
        content: all bytes of the file.
        asked: a key of `NAMES`, or `auto`.
        findings: where a problem goes.
    """
    claimed = ENDINGS.get(path.suffix.lower()) if asked == "auto" else asked
    looks = _looks(content)
    if claimed is None and looks[0] in NAMES:
        return looks[0]
    if claimed and (claimed in looks or claimed in _UNSURE.get(looks[0], ()) or _may_have_one_column(asked, looks)):
        return claimed
    by = "its ending says" if asked == "auto" else "the format asked for is"
    against = f", but {by} {NAMES[claimed]}" if claimed else ""
    findings.add("format", f"{path}: looks like {_described(looks)}{against}; {_remedy(looks)}")
    return None


SEMICOLONS = "a table with semicolons between cells"
PLAIN = "plain text"
BROKEN_JSON = "broken JSON"

# What cannot be told by looking, and what such a file may claim to be.
_UNSURE = {PLAIN: ("csv", "tsv"), BROKEN_JSON: ("json", "jsonl", "csv", "tsv")}


def _may_have_one_column(asked: str, looks: tuple[str, ...]) -> bool:
    """Whether the other format's delimiter is part of the only column's name, because the config says so."""
    return asked in ("csv", "tsv") and looks[0] in ("csv", "tsv", SEMICOLONS)


def _looks(content: bytes) -> tuple[str, ...]:
    """Return the formats the bytes may have, likeliest first, or one description of what else they are."""
    if content.startswith(PARQUET_MAGIC):
        return ("parquet",)
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, description in SIGNATURES:
        if start[: len(signature)].lower() == signature.lower():
            return (description,)
    if b"\x00" in start.partition(b"\n")[0] and start[:1] not in (b"{", b"["):
        return ("a binary file",)
    return _text_looks(start.decode("utf-8", errors="replace"))


def _text_looks(text: str) -> tuple[str, ...]:
    first = text.partition("\n")[0].strip()
    if text[0] in "[{":
        return _json_looks(text, first)
    if "\t" in first:
        return ("tsv", "csv") if "," in first else ("tsv",)
    if "," in first:
        return ("csv",)
    return (SEMICOLONS,) if ";" in first else (PLAIN,)


def _json_looks(text: str, first: str) -> tuple[str, ...]:
    whole, line = _parsed(text), _parsed(first)
    if whole is None:
        return ("jsonl",) if isinstance(line, dict) else (BROKEN_JSON,)
    if not isinstance(line, dict):
        return ("json",)
    return ("json", "jsonl") if only_list(whole) else ("jsonl", "json")


def only_list(value: dict[str, Any]) -> str | None:
    """Return the key of the only list of objects in a JSON object, unless it is a conversation."""
    keys = [key for key, item in value.items() if isinstance(item, list)]
    return keys[0] if len(keys) == 1 and keys[0] not in CHAT_KEYS else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _described(looks: tuple[str, ...]) -> str:
    return NAMES.get(looks[0], looks[0])


def _remedy(looks: tuple[str, ...]) -> str:
    if looks[0] in NAMES:
        return f"rename it, or set dataset.format={looks[0]}"
    if looks[0] == SEMICOLONS:
        return "save it with commas"
    if "UTF-16" in looks[0] or "UTF-32" in looks[0]:
        return "save it as UTF-8"
    return "give a file of JSON, JSON lines, CSV, TSV or Parquet"
