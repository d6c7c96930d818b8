"""Rows from JSON (a list of objects, or an object with one list) and from JSON lines."""

from __future__ import annotations

import json
import re
from typing import Any

from tunerun.dataset.formats import only_list
from tunerun.dataset.rows import Findings, RowBuilder, Rows, place_of

_SPACE = re.compile(r"[ \t\n\r]*")


def json_rows(file: str, text: str, findings: Findings) -> Rows:
    """Read a list of objects, or an object that holds one list of them; a row's line is where its object starts."""
    parser = _RowParser(file, findings)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        findings.add("json", f"{file}:{line}: {_complaint(error)}")
        return parser.rows()
    start = _start_of_list(whole, text)
    if start is None:
        what = "holds an object without exactly one list of rows"
        findings.add("json", f"{file}:1: {what}; put the rows into one list: [{{...}}, {{...}}]")
        return parser.rows()
    parser.read_list(text, start)
    return parser.rows()


def jsonl_rows(file: str, text: str, findings: Findings) -> Rows:
    """Read one object a line; blank lines are skipped."""
    parser = _RowParser(file, findings)
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(" \t\r"):
            parser.read_line(line, number)
    return parser.rows()


class _RowParser:
    """Parses objects and notices what `json` keeps quiet about: keys that stand twice in an object."""

    def __init__(self, file: str, findings: Findings) -> None:
        self._file = file
        self._findings = findings
        self._built = RowBuilder(file)
        self._repeated: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeated += [name for name in value if names.count(name) > 1]
        return value

    def rows(self) -> Rows:
        return self._built.rows()

    def read_line(self, line: str, number: int) -> None:
        try:
            value = self._decoder.decode(line)
        except (ValueError, RecursionError) as error:
            self._findings.add_row("json", place_of(self._file, number), _complaint(error))
            return
        self._row(value, number)

    def read_list(self, text: str, start: int) -> None:
        """Walk the list whose bracket stands at `start`; the text is known to be valid."""
        line, counted = 1, 0
        position = _after_space(text, start + 1)
        while text[position] != "]":
            line += text.count("\n", counted, position)
            counted = position
            value, end = self._decoder.raw_decode(text, position)
            self._row(value, line)
            position = _after_space(text, _after_space(text, end, ","))

    def _row(self, value: Any, line: int) -> None:
        if not isinstance(value, dict):
            what = f"the row is {_kind(value)}, not an object"
            self._findings.add_row("object", place_of(self._file, line), f"{what}; write it as {{column: cell, ...}}")
        elif self._repeated:
            what = f"the key {self._repeated[0]!r} stands twice in one object"
            self._findings.add_row("repeated key", place_of(self._file, line), f"{what}; keep one of them")
        else:
            self._built.add(line, value)
        self._repeated.clear()


def _after_space(text: str, position: int, separator: str = "") -> int:
    match = _SPACE.match(text, position)
    end = match.end() if match else position
    return end + len(separator) if separator and text.startswith(separator, end) else end


def _start_of_list(whole: Any, text: str) -> int | None:
    """Return where the list of rows begins in a valid JSON text, or None where it has none."""
    position = _after_space(text, 0)
    if isinstance(whole, list):
        return position
    wanted = only_list(whole) if isinstance(whole, dict) else None
    if wanted is None:
        return None
    decoder = json.JSONDecoder()
    while True:
        key, end = decoder.raw_decode(text, _after_space(text, position + 1))
        start = _after_space(text, _after_space(text, end, ":"))
        # The last of repeated keys is the one that json keeps; a list under an earlier one is no less a list.
        if key == wanted and text[start] == "[":
            return start
        position = _after_space(text, decoder.raw_decode(text, start)[1])


def _kind(value: Any) -> str:
    kinds = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


def _complaint(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON in column {error.colno}: {error.msg}; mend it there"
    if isinstance(error, RecursionError):
        return "the JSON is nested too deeply; flatten it"
    return "the JSON holds a number with too many digits; write it as a string"
