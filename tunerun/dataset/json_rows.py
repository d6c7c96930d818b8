"""Rows from JSON (a list of objects, or an object with one list) and from JSON lines; numbers stay as written."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from tunerun.dataset.formats import only_list
from tunerun.dataset.rows import Findings, RowBuilder, Rows, place_of
from tunerun.dataset.written_number import written_float, written_int

_SPACE = re.compile(r"[ \t\n\r]*")
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")
_BOM = "\ufeff"

MOST_COLUMNS = 1_000
"""Most distinct keys of all rows together. Ours: where each row has keys of its own, such as ids, a
column for each would need memory for rows times rows."""

_TOO_MANY_COLUMNS = (
    f"its rows have more than {MOST_COLUMNS:,} different keys; put those that differ from row to row into one object"
)
_REPEATED = "the key {!r} occurs twice in one object; keep one of them"


def json_rows(file: str, content: bytes, findings: Findings) -> Rows:
    """Read a list of objects, or an object that holds one list of them; a row's line is where its object starts.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    parser = _RowParser(file, content, findings)
    text = content.decode("utf-8").removeprefix(_BOM)
    try:
        start, repeated = _start_of_list(text)
        if repeated is not None:
            findings.add("repeated key", f"{file}:1: {_REPEATED.format(repeated)}")
            return parser.rows()
        if start is None:
            what = "holds an object without exactly one list of rows"
            findings.add("json", f"{file}:1: {what}; put the rows into one list: [{{...}}, {{...}}]")
            return parser.rows()
        parser.read_list(text, start)
    except _TooManyColumnsError:
        findings.add("columns", f"{file}: {_TOO_MANY_COLUMNS}")
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        findings.add("json", f"{file}:{line}: {_complaint(error)}")
    return parser.rows()


def jsonl_rows(file: str, content: bytes, findings: Findings, first_line: int = 1) -> Rows:
    """Read one object per line; blank lines and a byte order mark at the start of a line are skipped.

    Args:
        first_line: the number of the content's first line, where it is a part of a file that is read in parts.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    parser = _RowParser(file, content, findings)
    # Not str.splitlines(): JSON strings may hold U+2028 and other line separators unescaped.
    try:
        for number, line in enumerate(io.BytesIO(content), start=first_line):
            parser.read_line(line.decode("utf-8").rstrip("\r\n"), number)
    except _TooManyColumnsError:
        findings.add("columns", f"{file}: {_TOO_MANY_COLUMNS}")
    return parser.rows()


class _TooManyColumnsError(Exception):
    """The rows have more than `MOST_COLUMNS` keys."""


class _RowParser:
    """Parses objects, and detects repeated keys in an object, which `json` does not report."""

    def __init__(self, file: str, content: bytes, findings: Findings) -> None:
        self._file = file
        self._findings = findings
        self._built = RowBuilder(file)
        self._repeated: list[str] = []
        # `parse_int` is called for every integer, which is slow, and only -0 needs it.
        parse_int = written_int if _MINUS_ZERO.search(content) else None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=written_float, parse_int=parse_int, parse_constant=_constant
        )

    def rows(self) -> Rows:
        return self._built.rows()

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeated += [name for name in value if names.count(name) > 1]
        return value

    def read_line(self, line: str, number: int) -> None:
        if line[:1] == _BOM:
            line = line.lstrip(_BOM)
        try:
            value = self._decoder.decode(line)
        except (ValueError, RecursionError) as error:
            if line.strip():
                self._findings.add_row("json", place_of(self._file, number), _complaint(error))
            return
        self._row(value, number)

    def read_list(self, text: str, start: int) -> None:
        """Walk the list whose bracket is at `start`.

        Raises:
            JSONDecodeError: the text is broken there, or something follows the list of a text that begins with it.
        """
        line, counted = 1, 0
        position = _after_space(text, start + 1)
        while not text.startswith("]", position):
            line += text.count("\n", counted, position)
            counted = position
            value, end = self._decoder.raw_decode(text, position)
            self._row(value, line)
            position = _after_space(text, end)
            if text.startswith(",", position):
                position = _after_space(text, position + 1)
                if text.startswith("]", position):
                    raise json.JSONDecodeError("Illegal trailing comma before end of array", text, position)
            elif not text.startswith("]", position):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        end = _after_space(text, position + 1)
        if start == _after_space(text, 0) and end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)

    def _row(self, value: Any, line: int) -> None:
        if not isinstance(value, dict):
            what = f"the row is {_kind(value)}, not an object"
            self._findings.add_row("object", place_of(self._file, line), f"{what}; write it as {{column: cell, ...}}")
        elif self._repeated:
            self._findings.add_row("repeated key", place_of(self._file, line), _REPEATED.format(self._repeated[0]))
        else:
            self._built.add(line, value)
            if self._built.column_count > MOST_COLUMNS:
                raise _TooManyColumnsError
        self._repeated.clear()


def _constant(name: str) -> float | None:
    """Return null for NaN, which tables write for an empty cell; an infinity is refused where a template uses it."""
    return None if name == "NaN" else float(name)


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _start_of_list(text: str) -> tuple[int | None, str | None]:
    """Return where the list of rows begins (None: a valid JSON text has none), and a repeated key, if any.

    Raises:
        JSONDecodeError: the text is broken; a text that begins with a list is not checked further here.
    """
    position = _after_space(text, 0)
    if text.startswith("[", position):
        return position, None
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = pairs  # the outermost object is complete last
        return dict(pairs)

    whole = json.loads(text, object_pairs_hook=keep)
    if not isinstance(whole, dict):
        return None, None
    names = [name for name, _ in outermost]
    wanted = only_list(whole)
    if wanted is None or len(names) > len(whole):
        return None, next((name for name in names if names.count(name) > 1), None)
    decoder = json.JSONDecoder()
    while True:
        key, end = decoder.raw_decode(text, _after_space(text, position + 1))
        start = _after_space(text, _after_space(text, end) + 1)  # after the colon
        if key == wanted:
            return start, None
        position = _after_space(text, decoder.raw_decode(text, start)[1])


def _kind(value: Any) -> str:
    kinds = {str: "a string", bool: "a boolean", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")


def _complaint(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON in column {error.colno}: {error.msg}; fix it there"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply; flatten it"
    return "the JSON holds a number with too many digits; write it as a string"
