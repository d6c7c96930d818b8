"""Rows in the shapes that other tools train on: conversations of one question and one answer, and Alpaca's columns."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tunerun.dataset.rows import ABSENT, Findings, Rows

TEXT_INPUT, OUTPUT, SYSTEM = "text_input", "output", "system"
"""The columns that a conversation gives: what the user says, what the model answers, what the system message says."""

_LISTS = ("messages", "contents", "conversations")
"""Columns that hold a conversation: OpenAI's, Gemini's and Vertex AI's, ShareGPT's; the first that a row has counts."""

_INSTRUCTIONS = ("systemInstruction", "system_instruction")

_ALPACA = ("instruction", "input", "history")
"""Stanford Alpaca's columns beside `output`; LLaMA-Factory adds earlier turns as `history`."""

_ROLES = {
    "user": TEXT_INPUT,
    "assistant": OUTPUT,
    "model": OUTPUT,
    "system": SYSTEM,
    "developer": SYSTEM,
    "human": TEXT_INPUT,
    "gpt": OUTPUT,
    "chatgpt": OUTPUT,
}
"""Source: OpenAI's chat format for fine-tuning (system, developer, user, assistant), Vertex AI's (user, model),
ShareGPT's as FastChat and LLaMA-Factory read it (system, human, gpt, chatgpt)."""

_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = ("content", "parts", "value", "text")
_WEIGHT = "weight"

_PART_OF_THE_TURN = frozenset(
    {
        "tool_calls",
        "tool_call_id",
        "function_call",
        "functionCall",
        "reasoning_content",
        "reasoning",
        "thinking",
        "refusal",
        "audio",
        "images",
        "loss_weight",
        "train",
        "mask",
    }
)
"""Keys of a message that change what is said or learned; whatever else it holds is named in a warning."""

Turn = tuple[str, str]


def conversation_columns(rows: Rows, wanted: Collection[str]) -> frozenset[str]:
    """Return the columns that `with_conversations` reads for these rows; none where it leaves them as they are."""
    lacking = [name for name in (TEXT_INPUT, OUTPUT) if name in wanted and _is_lacking(rows, name)]
    if not lacking:
        return frozenset()
    if any(name in rows.columns for name in _LISTS):
        return frozenset(rows.columns.keys() & {*_LISTS, *_INSTRUCTIONS})
    if lacking == [TEXT_INPUT] and _ALPACA[0] in rows.columns:
        return frozenset(rows.columns.keys() & {*_ALPACA})
    return frozenset()


def with_conversations(rows: Rows, wanted: Collection[str], findings: Findings) -> Rows:
    """Return the rows with the columns that their conversations give, or as they are where they need none.

    `messages` (OpenAI), `contents` (Gemini, Vertex AI) or `conversations` (ShareGPT), as lists or as their JSON in a
    cell, give `text_input` and `output` where the template wants them and the row has no such columns; a system
    message gives `system`, which is empty where there is none. Alpaca's `instruction` and `input` give `text_input`.

    Args:
        rows: as they were read.
        wanted: the columns that the template names; for `predict` those of its `text_input` alone.
        findings: a row is left out, and the reason added, where its conversation has several turns, something other
            than text, a role that is unknown, an answer that is not to be learned, or a system message that the
            template omits. What is ignored in messages is a warning.
    """
    used = conversation_columns(rows, wanted)
    if not used:
        return rows
    reader = _Conversations(wanted)
    kept: list[int] = []
    added: dict[str, list[Any]] = {name: [] for name in (TEXT_INPUT, OUTPUT, SYSTEM) if name in wanted}
    for index in range(len(rows)):
        cells = {name: rows.columns[name][index] for name in (*used, *added) if name in rows.columns}
        try:
            found = reader.columns({name: cell for name, cell in cells.items() if cell is not ABSENT})
        except _UnsuitableError as error:
            findings.add_row("conversation", rows.place(index), str(error))
            continue
        finally:
            reader.place(rows.place(index))
        kept.append(index)
        for name, column in added.items():
            column.append(found.get(name, ABSENT))
    for key, (count, place) in reader.ignored.items():
        where = place if count == 1 else f"{place} and {count - 1:,} more rows"
        findings.warn("message key", f"{where}: {key!r} in a message is ignored; only its role and its text are used")
    return (rows if len(kept) == len(rows) else rows.take(kept)).with_columns(added)


def _is_lacking(rows: Rows, name: str) -> bool:
    return name not in rows.columns or ABSENT in rows.columns[name]


class _UnsuitableError(Exception):
    """Why a conversation gives no example."""


class _Conversations:
    """Reads the conversations of a file's rows, and notices what is ignored in their messages."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.ignored: dict[str, tuple[int, str]] = {}
        self._wanted = wanted
        self._of_row: set[str] = set()

    def place(self, place: str) -> None:
        """Count the ignored keys of the row that was read last."""
        for key in sorted(self._of_row):
            count, first = self.ignored.get(key, (0, place))
            self.ignored[key] = (count + 1, first)
        self._of_row.clear()

    def columns(self, cells: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `text_input`, `output` and `system` of a row, as far as they are wanted; its own columns win."""
        missing = {TEXT_INPUT, OUTPUT, SYSTEM} & set(self._wanted) - cells.keys()
        if not missing & {TEXT_INPUT, OUTPUT}:
            return cells
        name = next((each for each in _LISTS if each in cells), None)
        if name is None:
            return {TEXT_INPUT: _alpaca_input(cells), **cells} if _ALPACA[0] in cells else cells
        found = self._spoken(cells[name], next((cells[each] for each in _INSTRUCTIONS if cells.get(each)), None))
        if found[SYSTEM] and SYSTEM not in self._wanted:
            raise _UnsuitableError("has a system message that the template omits; name {{ system }} in it")
        if found[SYSTEM] and cells.get(SYSTEM):
            raise _UnsuitableError("has a system message and a column 'system'; keep one of them")
        lacking = sorted(missing - found.keys())
        if lacking:
            raise _UnsuitableError(f"its conversation has no {lacking[0]}; write one user and one model turn")
        return {**found, **cells}

    def _spoken(self, messages: Any, instruction: Any) -> dict[str, str]:
        turns = [self._turn(message) for message in _list_of_objects(messages)]
        if instruction is not None:
            instruction = _from_text(instruction)
            content = instruction.get("parts") if isinstance(instruction, Mapping) else instruction
            turns.insert(0, (SYSTEM, _text(content)))
        spoken = [column for column, _ in turns if column != SYSTEM]
        if spoken not in ([TEXT_INPUT], [TEXT_INPUT, OUTPUT]):
            raise _UnsuitableError(
                f"its conversation has {len(spoken)} turns; only one user turn and one answer can be learned"
            )
        instructions = "\n".join(text for column, text in turns if column == SYSTEM)
        return {SYSTEM: instructions, **{column: text for column, text in turns if column != SYSTEM}}

    def _turn(self, message: Mapping[str, Any]) -> Turn:
        held = {key for key, value in message.items() if not _is_empty(value)}
        dropped = sorted(held & _PART_OF_THE_TURN)
        if dropped:
            raise _UnsuitableError(
                f"a message holds {dropped[0]!r}, which cannot be learned; keep the role and the text alone"
            )
        column = _column(next((message[key] for key in _ROLE_KEYS if key in message), None))
        weight = message.get(_WEIGHT)
        if column == OUTPUT and weight is not None and weight != 1:
            raise _UnsuitableError(
                f"the answer has weight {weight!r}; only weight 1 can be learned: remove the row, "
                "or set dataset.on_bad_row=skip"
            )
        self._of_row |= held - {*_ROLE_KEYS, *_TEXT_KEYS, _WEIGHT}
        return column, _text(next((message[key] for key in _TEXT_KEYS if key in message), None))


def _is_empty(value: Any) -> bool:
    """Whether a key says nothing; Parquet gives every message all keys, most of them null."""
    return value is None or value in ("", [], {})


def _list_of_objects(messages: Any) -> Sequence[Mapping[str, Any]]:
    messages = _from_text(messages)
    if not _is_list(messages) or not all(isinstance(message, Mapping) for message in messages):
        raise _UnsuitableError("its conversation is not a list of objects; write one user and one model turn")
    found: Sequence[Mapping[str, Any]] = messages
    return found


def _from_text(value: Any) -> Any:
    """Return what a cell of JSON text holds (a list or an object), or the value itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _column(role: Any) -> str:
    column = _ROLES.get(role) if isinstance(role, str) else None
    if column is None:
        raise _UnsuitableError(f"its conversation has a role that is unknown; use {', '.join(_ROLES)}")
    return column


def _text(content: Any) -> str:
    """Return a text, or the texts of a list of parts that hold nothing else."""
    if isinstance(content, str):
        return content
    if not _is_list(content):
        raise _UnsuitableError("its conversation holds something other than text; only text can be learned")
    return "".join(map(_text_of_part, content))


def _text_of_part(part: Any) -> str:
    """Return the text of a part that holds nothing else; Parquet gives every part all fields, most of them null."""
    if isinstance(part, Mapping):
        held = {key: value for key, value in part.items() if value is not None and key != "type"}
        if len(held) == 1 and held.keys() <= {"text", "value"}:
            (text,) = held.values()
            if isinstance(text, str):
                return text
    raise _UnsuitableError("its conversation holds something other than text; only text can be learned")


def _alpaca_input(cells: Mapping[str, Any]) -> Any:
    """Return the instruction, and the input on a line of its own where there is one, as LLaMA-Factory joins them."""
    instruction, given = cells["instruction"], cells.get("input")
    if not _is_empty(cells.get("history")):
        raise _UnsuitableError("has earlier turns in 'history'; only one user turn and one answer can be learned")
    return instruction if given is None or given == "" else f"{instruction}\n{given}"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
