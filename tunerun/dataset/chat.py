"""Conversations as rows: OpenAI's `messages` and Gemini's `contents`, of one question and one answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tunerun.dataset.rows import SourceRow
from tunerun.errors import DatasetError

TEXT_INPUT, OUTPUT, SYSTEM = "text_input", "output", "system"
"""The columns that a conversation gives: what the user says, what the model answers, what it was told before."""

_ROLES = {"user": TEXT_INPUT, "assistant": OUTPUT, "model": OUTPUT, "system": SYSTEM, "developer": SYSTEM}
"""Source: OpenAI's chat format for fine-tuning (system, developer, user, assistant), Vertex AI's (user, model)."""

CHAT_COLUMNS = frozenset({"messages", "contents", "systemInstruction", "system_instruction"})

Turn = tuple[str, str]


def with_chat_columns(row: SourceRow, wanted: Collection[str]) -> SourceRow:
    """Return the row with the columns that its conversation gives, or as it is where it has none or needs none.

    `messages` (OpenAI) or `contents` (Gemini, Vertex AI) give `text_input` and `output` where the template wants them
    and the row has no such columns; a system message gives `system`, which is empty where there is none.

    Args:
        row: the row as it was read.
        wanted: the columns that the template names; for `predict` those of its `text_input` alone.

    Raises:
        DatasetError: the conversation has several turns, something other than text, a role that is unknown, or a
            system message that the template leaves out.
    """
    missing = {TEXT_INPUT, OUTPUT, SYSTEM} & set(wanted) - row.columns.keys()
    if not missing & {TEXT_INPUT, OUTPUT} or not row.columns.keys() & {"messages", "contents"}:
        return row
    try:
        found = _columns_of(row.columns)
        if found[SYSTEM] and SYSTEM not in wanted:
            raise _UnsuitableError("has a system message that the template leaves out; name {{ system }} in it")
        lacking = sorted(name for name in missing if name not in found)
        if lacking:
            raise _UnsuitableError(f"its conversation gives no {lacking[0]}; write one user and one model turn")
    except _UnsuitableError as error:
        raise DatasetError(f"{row.place}: {error}") from None
    return dataclasses.replace(row, columns={**row.columns, **{name: found[name] for name in missing}})


class _UnsuitableError(Exception):
    """Why a conversation gives no example."""


def _columns_of(columns: Mapping[str, Any]) -> dict[str, str]:
    turns = _turns(columns["messages"], "content") if "messages" in columns else _turns(columns["contents"], "parts")
    instruction = columns.get("systemInstruction") or columns.get("system_instruction")
    if instruction is not None:
        turns.insert(0, (SYSTEM, _text(instruction.get("parts") if isinstance(instruction, Mapping) else instruction)))
    spoken = [column for column, _ in turns if column != SYSTEM]
    if spoken not in ([TEXT_INPUT], [TEXT_INPUT, OUTPUT]):
        raise _UnsuitableError(
            f"its conversation has {len(spoken)} turns; only one user turn and one answer can be learned"
        )
    told = "\n".join(text for column, text in turns if column == SYSTEM)
    return {SYSTEM: told, **{column: text for column, text in turns if column != SYSTEM}}


def _turns(messages: Any, key: str) -> list[Turn]:
    if not _is_list(messages) or not all(isinstance(message, Mapping) for message in messages):
        raise _UnsuitableError("its conversation is no list of objects; write one user and one model turn")
    return [(_column(message.get("role")), _text(message.get(key))) for message in messages]


def _column(role: Any) -> str:
    column = _ROLES.get(role) if isinstance(role, str) else None
    if column is None:
        raise _UnsuitableError(f"its conversation has a role that is unknown; use {', '.join(_ROLES)}")
    return column


def _text(content: Any) -> str:
    """Return a text, or the texts of a list of parts that hold nothing else."""
    if isinstance(content, str):
        return content
    if not _is_list(content) or not all(map(_is_text, content)):
        raise _UnsuitableError("its conversation holds something other than text; only text can be learned")
    return "".join(part["text"] for part in content)


def _is_text(part: Any) -> bool:
    """Whether a part holds a text and nothing else; Parquet gives every part all fields, most of them null."""
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        return False
    return all(value is None or key in ("text", "type") for key, value in part.items())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
