"""Rows from JSON (a list of objects, or an object with one list) and from JSON lines; numbers stay as written."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from tunerun.dataset.findings import Findings
from tunerun.dataset.formats import only_list
from tunerun.dataset.rows import RowBuilder, Rows

_SPACE = re.compile(r"[ \t\n\r]*")
_MINUS_ZERO = re.compile(rb"-0(?![0-9.eE])")
"""The integer -0: `int` would lose its sign."""

_BOM = "\ufeff"

MOST_COLUMNS = 1_000
"""Most distinct keys of all rows together. Ours: where each row has keys of its own, such as ids, a
column for each would need memory for rows times rows."""

_TOO_MANY_COLUMNS = (
    f"its rows have more than {MOST_COLUMNS:,} different keys; put those that differ from row to row into one object"
)
_REPEATED = "the key {!r} occurs twice in one object; keep one of them"


class WrittenNumber(float):
    """A float whose `str()` is the spelling in the file: a prompt should show 1.10 as 1.10, and a label 1e5 as 1e5."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> WrittenNumber:  # noqa: D102
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[WrittenNumber], tuple[str]]:
        return WrittenNumber, (self.text,)


def _written_float(text: str) -> float:
    """Parse a JSON number with a point or an exponent; a plain float if Python writes it the same way."""
    number = float(text)
    return number if repr(number) == text else WrittenNumber(text)


def json_rows(file: str, content: bytes) -> tuple[Rows, Findings]:
    """Read a list of objects, or an object that holds one list of them; a row's line is where its object starts.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    parser = _RowParser(file, content)
    text = content.decode("utf-8").removeprefix(_BOM)
    try:
        start, repeated = _start_of_list(text)
        if repeated is not None:
            parser.findings.add("repeated key", f"{file}:1: {_REPEATED.format(repeated)}")
        elif start is None:
            what = "holds an object without exactly one list of rows"
            parser.findings.add("json", f"{file}:1: {what}; put the rows into one list: [{{...}}, {{...}}]")
        else:
            parser.read_list(text, start)
    except _TooManyColumnsError:
        parser.findings.add("columns", f"{file}: {_TOO_MANY_COLUMNS}")
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        parser.findings.add("json", f"{file}:{line}: {_complaint(error)}")
    return parser.built.rows(), parser.findings


def jsonl_rows(file: str, content: bytes, first_line: int = 1) -> tuple[Rows, Findings]:
    """Read one object per line; blank lines and a byte order mark at the start of a line are skipped.

    Args:
        first_line: the number of the content's first line, where it is a part of a file that is read in parts.

    Raises:
        UnicodeDecodeError: the content is not UTF-8.
    """
    parser = _RowParser(file, content)
    # Not str.splitlines(): JSON strings may hold U+2028 and other line separators unescaped.
    try:
        for number, line in enumerate(io.BytesIO(content), start=first_line):
            parser.read_line(line.decode("utf-8").rstrip("\r\n"), number)
    except _TooManyColumnsError:
        parser.findings.add("columns", f"{file}: {_TOO_MANY_COLUMNS}")
    return parser.built.rows(), parser.findings


class _TooManyColumnsError(Exception):
    """The rows have more than `MOST_COLUMNS` keys."""


class _RowParser:
    """Parses objects, and detects repeated keys in an object, which `json` does not report."""

    def __init__(self, file: str, content: bytes) -> None:
        self.findings = Findings(file)
        self.built = RowBuilder(file)
        self._repeated: list[str] = []
        # `parse_int` is called for every integer, which is slow, and -0 is the only one that `int` writes differently.
        has_minus_zero = _MINUS_ZERO.search(content) is not None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_float=_written_float,
            parse_int=(lambda text: WrittenNumber(text) if text == "-0" else int(text)) if has_minus_zero else None,
            # Tables write NaN for an empty cell; an infinity is refused where a template uses it.
            parse_constant=lambda name: None if name == "NaN" else float(name),
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):  # `json` would keep the last value and drop the others
            names = [name for name, _ in pairs]
            self._repeated += [name for name in value if names.count(name) > 1]
        return value

    def read_line(self, line: str, number: int) -> None:
        if line[:1] == _BOM:  # of each line, where files with a byte order mark were joined
            line = line.lstrip(_BOM)
        try:
            value = self._decoder.decode(line)
        except (ValueError, RecursionError) as error:
            if line.strip():
                self.findings.add_row("json", number, _complaint(error))
            return
        self._row(value, number)

    def read_list(self, text: str, start: int) -> None:
        """Walk the list whose bracket is at `start`.

        Raises:
            JSONDecodeError: the text is broken there, or something follows the list of a text that begins with it.
        """
        # Object by object, so that each row has its line and memory does not hold the whole list twice.
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
            kinds = {str: "a string", bool: "a boolean", list: "a list", type(None): "null"}
            what = f"the row is {kinds.get(type(value), 'a number')}, not an object"
            self.findings.add_row("object", line, f"{what}; write it as {{column: cell, ...}}")
        elif self._repeated:
            self.findings.add_row("repeated key", line, _REPEATED.format(self._repeated[0]))
        else:
            self.built.add(line, value)
            if self.built.column_count > MOST_COLUMNS:
                raise _TooManyColumnsError
        self._repeated.clear()


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
    # `json` does not say where the list began, so the pairs before it are walked again.
    decoder = json.JSONDecoder()
    while True:
        key, end = decoder.raw_decode(text, _after_space(text, position + 1))
        start = _after_space(text, _after_space(text, end) + 1)  # after the colon
        if key == wanted:
            return start, None
        position = _after_space(text, decoder.raw_decode(text, start)[1])


def _complaint(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON in column {error.colno}: {error.msg}; fix it there"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply; flatten it"
    return "the JSON holds a number with too many digits; write it as a string"
