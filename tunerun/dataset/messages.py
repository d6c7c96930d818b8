"""Messages of a conversation in the formats of OpenAI, of Gemini and Vertex AI, and of ShareGPT."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT

CONVERSATIONS = ("messages", "contents", "conversations")
"""Columns that hold a conversation: OpenAI's, Gemini's and Vertex AI's, ShareGPT's; the first one in a row is used."""

INSTRUCTIONS = ("systemInstruction", "system_instruction")

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
_PLAIN_KEYS = frozenset({"role", "content"})
_USED_KEYS = frozenset({*_ROLE_KEYS, *_TEXT_KEYS, _WEIGHT})

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
"""Keys of a message that change what is said or learned: training on the text alone would teach something else. Other
unknown keys only give a warning."""

Note = Callable[[str, str], object]
"""Takes a change that was made to a message, and the place of the message."""


class UnsuitableError(Exception):
    """A conversation cannot be made into an example; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        column: the role: TEXT_INPUT (user), OUTPUT (assistant) or SYSTEM.
        place: its place in the row, such as `messages[2]`.
        is_learned: of an answer, whether its weight is 1.
    """

    column: str
    text: str
    place: str
    is_learned: bool = True


def read_messages(cells: Mapping[str, Any], name: str, note: Note) -> list[Message]:
    """Read the messages of a conversation; a separate system instruction comes first.

    Args:
        cells: of a row.
        name: the column of the conversation, one of `CONVERSATIONS`.
        note: called for each kind of key that is ignored.

    Raises:
        UnsuitableError: it holds something that cannot be learned.
    """
    messages = from_text(cells[name])
    if not is_list(messages) or not all(isinstance(message, Mapping) for message in messages):
        raise UnsuitableError(
            f"{name}: is not a list of objects; write each message as an object with a role and a text"
        )
    listed = [_message(message, f"{name}[{number}]", note) for number, message in enumerate(messages)]
    for key in INSTRUCTIONS:
        if cells.get(key):
            instruction = from_text(cells[key])
            content = instruction.get("parts") if isinstance(instruction, Mapping) else instruction
            return [Message(SYSTEM, _text(content, key), key), *listed]
    return listed


def _message(message: Mapping[str, Any], place: str, note: Note) -> Message:
    # Nearly all messages have a role and a content alone; a look at each key made reading rows of one turn slower.
    if not message.keys() <= _PLAIN_KEYS:
        held = {key for key, value in message.items() if not is_empty(value)}
        unlearnable = sorted(held & _PART_OF_THE_TURN)
        if unlearnable:
            raise UnsuitableError(
                f"{place}: holds {unlearnable[0]!r}, which cannot be learned; keep the role and the text alone"
            )
        for key in sorted(held - _USED_KEYS):
            note(f"{key!r} in a message is ignored; only its role and its text are used", "")
    role = message["role"] if "role" in message else message.get("from")
    column = _ROLES.get(role) if isinstance(role, str) else None
    if column is None:
        raise UnsuitableError(f"{place}: has a role that is unknown; use {', '.join(_ROLES)}")
    content = message.get("content")
    if not isinstance(content, str):
        content = _text(next((message[key] for key in _TEXT_KEYS if key in message), None), place)
    weight = message.get(_WEIGHT) if column == OUTPUT else None
    if weight not in (None, 0, 1):
        raise UnsuitableError(
            f"{place}: has weight {weight!r}; write 1 for an answer to be learned, 0 for one that is not"
        )
    return Message(column, content, place, weight is None or bool(weight))


def is_empty(value: Any) -> bool:
    """Whether a value is as good as a missing key: Parquet gives every message all keys, most of them null."""
    return value is None or value in ("", [], {})


def from_text(value: Any) -> Any:
    """Return the list or object of a cell that holds JSON text; any other value unchanged."""
    # A CSV file can hold a conversation in no other way.
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _text(content: Any, place: str) -> str:
    """Return the text of a message: the content itself, or its text parts joined."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content if is_list(content) else [content]:
        # Parquet gives every part all fields, mostly null.
        fields = part.items() if isinstance(part, Mapping) else ()
        held = {key: value for key, value in fields if value is not None and key != "type"}
        text = next(iter(held.values()), None)
        if len(held) != 1 or not held.keys() <= {"text", "value"} or not isinstance(text, str):
            raise UnsuitableError(f"{place}: contains something other than text; only text can be learned")
        texts.append(text)
    return "".join(texts)


def is_list(value: Any) -> bool:
    """Whether a cell is a list of values, and not text."""
    return isinstance(value, Sequence) and not isinstance(value, str)
