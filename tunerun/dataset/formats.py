"""The format of a file, from the config, the file's ending and its bytes."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.dataset.findings import UnreadableError
from tunerun.dataset.messages import CONVERSATIONS
from tunerun.dataset.table_rows import DELIMITERS, SEPARATOR_LINE

ENDINGS = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".psv": "pipe",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}

NAMES = {
    "json": "JSON",
    "jsonl": "JSON lines",
    "csv": "CSV",
    "tsv": "TSV",
    "semicolon": "a table with semicolons between cells",
    "pipe": "a table with pipes between cells",
    "parquet": "Parquet",
    "arrow": "Arrow",
}

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
_STREAM_MAGIC = b"\xff\xff\xff\xff"  # continuation marker of the first message of an Arrow stream, since Arrow 0.15
BINARY_MAGIC = (PARQUET_MAGIC, ARROW_MAGIC, _STREAM_MAGIC)

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.arrow$")
"""Names of the files in a folder that `datasets` saves."""

_GIVE_ROWS = "give a file of JSON, JSON lines, CSV, TSV, Parquet or Arrow"
_AS_UTF_8 = "save it as UTF-8"
# The numbers are LibreOffice's filter options: a comma (44) between cells, quotes (34) around text, UTF-8 (76).
_TO_CSV = (
    "save it as CSV UTF-8, or run: libreoffice --headless --convert-to "
    "'csv:Text - txt - csv (StarCalc):44,34,76' '{file}'"
)

_ZIP = b"PK\x03\x04"
_SIGNATURES = {
    _ZIP: ("a zip archive, not an Excel workbook", _GIVE_ROWS),
    b"\xd0\xcf\x11\xe0": ("an old Office document (Excel 97?)", _TO_CSV),
    b"\x1f\x8b": ("a gzip archive", _GIVE_ROWS),
    b"BZh": ("a bzip2 archive", _GIVE_ROWS),
    b"\xfd7zXZ": ("an xz archive", _GIVE_ROWS),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _GIVE_ROWS),
    b"%PDF": ("a PDF document", _GIVE_ROWS),
    b"SQLite format 3": ("a SQLite database", _GIVE_ROWS),
    b"FEA1": ("Feather of version 1", _GIVE_ROWS),
    b"\xff\xfe\x00\x00": ("text in UTF-32", _AS_UTF_8),
    b"\x00\x00\xfe\xff": ("text in UTF-32", _AS_UTF_8),
    b"\xff\xfe": ("text in UTF-16", _AS_UTF_8),
    b"\xfe\xff": ("text in UTF-16", _AS_UTF_8),
    b"version https://git-lfs": ("a Git LFS pointer, not the file itself (git lfs pull fetches it)", _GIVE_ROWS),
    b"<!doctype": ("HTML", _GIVE_ROWS),
    b"<html": ("HTML", _GIVE_ROWS),
    b"<?xml": ("XML", _GIVE_ROWS),
}
"""By the first bytes of files that users name by mistake (case is ignored; from the formats' specifications): what the
file is, and what to do. The byte order mark of UTF-32 begins with that of UTF-16, so it comes first."""

_SAMPLE_BYTES = 65_536
"""Bytes of a file that are looked at. Ours: several records, even of long texts."""

_SAMPLE_RECORDS = 20
"""Records of a table by which its delimiter is detected. Ours."""


@dataclass(frozen=True)
class _Look:
    """What the bytes of a file look like.

    Attributes:
        formats: keys of `NAMES`, likeliest first; empty: none of them.
        description: for messages: what the file is, where it is not rows, or what else it may be.
        remedy: what to do if it cannot be read; empty: rename it or set dataset.format.
        unsure: formats that are accepted if the ending or the config names them.
    """

    formats: tuple[str, ...] = ()
    description: str = ""
    remedy: str = ""
    unsure: tuple[str, ...] = ()


def find_format(path: Path, content: bytes, chosen: str) -> str:
    """Return the format of a file, a key of `NAMES`.

    The ending decides as long as the bytes may be of that format. Between JSON and JSON lines the bytes decide, since
    they are unambiguous, and a `sep=` line names the separator itself.

    Args:
        path: for its ending and for the message.
        content: all bytes of the file.
        chosen: `dataset.format`: a key of `NAMES`, or `auto`.

    Raises:
        UnreadableError: it is not rows, or its bytes are not of the chosen format; says what it looks like.
    """
    claimed = ENDINGS.get(path.suffix.lower()) if chosen == "auto" else chosen
    look = _look(content)
    first = next(iter(look.formats), None)

    if first == "arrow" and chosen == "auto" and _SHARD.search(path.name):
        what = "is one Arrow file of a folder that `datasets` saved"
        advice = f"set dataset.path={path.parent}, or dataset.format=arrow for it alone"
        raise UnreadableError("format", f"{path}: {what}; {advice}")

    if claimed is None and first is not None:
        return first
    # A table with a separator of its own: the bytes cannot rule a chosen separator out, as cells may hold the others.
    if claimed is not None and (
        claimed in (*look.formats, *look.unsure) or (chosen in DELIMITERS and first in DELIMITERS)
    ):
        return claimed
    # Files of JSON lines are often called .json, and lists .jsonl.
    is_unambiguous = SEPARATOR_LINE.match(content) or {first, claimed} == {"json", "jsonl"}
    if first is not None and chosen == "auto" and is_unambiguous:
        return first

    by = "its ending says" if chosen == "auto" else "dataset.format is"
    against = f", but {by} {NAMES[claimed]}" if claimed else ""
    looks = look.description or NAMES[look.formats[0]]
    remedy = look.remedy or f"{'' if first in _WITHOUT_ENDING else 'rename it, or '}set dataset.format={first}"
    raise UnreadableError("format", f"{path}: looks like {looks}{against}; {remedy.format(file=path)}")


_WITHOUT_ENDING = NAMES.keys() - ENDINGS.values()

_UNKNOWN_TEXT = _Look(description="plain text", remedy=_GIVE_ROWS, unsure=tuple(DELIMITERS))
_BROKEN_JSON = _Look(description="broken JSON", remedy=_GIVE_ROWS, unsure=("json", "jsonl", *DELIMITERS))


def _look(content: bytes) -> _Look:
    if content.startswith(PARQUET_MAGIC):
        return _Look(("parquet",))
    if content.startswith((ARROW_MAGIC, _STREAM_MAGIC)):
        return _Look(("arrow",))
    start = content[:_SAMPLE_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    for signature, (description, remedy) in _SIGNATURES.items():
        if start[: len(signature)].lower() == signature.lower():
            if signature == _ZIP and _is_workbook(content):
                return _Look(description="an Excel workbook", remedy=_TO_CSV)
            return _Look(description=description, remedy=remedy)
    # Windows tools write UTF-16 without a byte order mark too; as UTF-8 it would be a table with a NUL in every cell.
    if _is_wide(content[:_SAMPLE_BYTES]):
        return _Look(description="text in UTF-16 without a byte order mark", remedy=_AS_UTF_8)
    if start[:1] in (b"{", b"["):
        return _json_look(content)
    # A NUL further down is a damaged cell, which the check "characters" reports with its row.
    if b"\x00" in start.partition(b"\n")[0]:
        return _Look(description="a binary file", remedy=_GIVE_ROWS)
    return _table_look(content)


def _is_workbook(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return False


def _is_wide(sample: bytes) -> bool:
    """Return whether about every second byte is 0, as in Latin text with two bytes a letter."""
    halves = sample[0::2], sample[1::2]
    others, zeros = sorted(half.count(0) / max(1, len(half)) for half in halves)
    return len(sample) > 3 and zeros > 0.4 and others < 0.1


def _json_look(content: bytes) -> _Look:
    """Distinguish JSON from JSON lines by the first object or line, so that a large file is not parsed twice."""
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        start = text[1:_SAMPLE_BYTES].decode("utf-8", errors="replace").lstrip()
        try:
            if start.startswith("{") and json.JSONDecoder().raw_decode(start):
                return _Look(("json",))
        except (ValueError, RecursionError):
            pass  # the first object is broken, or longer than the sample
    first, _, rest = text.partition(b"\n")
    line = _parsed(first)
    if isinstance(line, dict):
        if rest.strip():
            return _Look(("jsonl",))
        return _Look(("json", "jsonl") if only_list(line) else ("jsonl", "json"))
    whole = line if line is not None and not rest.strip() else _parsed(text)
    return _Look(("json",)) if isinstance(whole, dict | list) else _BROKEN_JSON


def only_list(value: dict[str, Any]) -> str | None:
    """Return the key of the only list of objects in a JSON object, unless it is a conversation."""
    keys = [key for key, item in value.items() if isinstance(item, list)]
    return keys[0] if len(keys) == 1 and keys[0] not in CONVERSATIONS else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None


def _table_look(content: bytes) -> _Look:
    """Detect the delimiter: the one that splits the first lines into equally many cells, and into the most."""
    separator = SEPARATOR_LINE.match(content)
    if separator:
        by_delimiter = {delimiter.encode(): name for name, delimiter in DELIMITERS.items()}
        name = by_delimiter.get(separator[1])
        return _Look((name,)) if name else _Look(description="a table with an unknown sep= line", remedy=_GIVE_ROWS)
    lines = content[:_SAMPLE_BYTES].removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace").lstrip()
    scores = {name: _score(lines, delimiter) for name, delimiter in DELIMITERS.items()}
    best = max(scores.values())
    if best[1] < 2:
        return _UNKNOWN_TEXT
    return _Look(tuple(name for name, score in scores.items() if score == best or (not best[0] and score[1] > 1)))


def _score(text: str, delimiter: str) -> tuple[bool, int]:
    """Return whether the first records have as many cells as the header, and how many cells that is."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    widths: list[int] = []
    try:
        for cells in reader:
            if cells:
                widths.append(len(cells))
            if len(widths) == _SAMPLE_RECORDS:
                break
    except csv.Error:
        pass
    # The sample may end in the middle of a record.
    whole = widths if len(widths) < 3 or len(widths) == _SAMPLE_RECORDS else widths[:-1]
    return (len(set(whole)) == 1 and whole[0] > 1, widths[0] if widths else 0)
