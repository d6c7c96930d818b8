"""Conversations as rows."""

from typing import Any

import pytest

from tunerun.dataset import SourceRow, with_chat_columns
from tunerun.errors import DatasetError

BOTH = ("text_input", "output")


def _row(**columns: Any) -> SourceRow:
    return SourceRow("a.jsonl", 7, columns)


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _turn(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [_message("user", "1"), _message("assistant", "2")]},
        {"messages": [_message("user", [{"type": "text", "text": "1"}]), _message("assistant", "2")]},
        {"messages": [_message("system", ""), _message("user", "1"), _message("assistant", "2")]},
        {"contents": [_turn("user", "1"), _turn("model", "2")]},
        {"contents": [_turn("user", "1", ""), _turn("model", "2")]},
        {"contents": [{"role": "user", "parts": [{"text": "1", "fileData": None}]}, _turn("model", "2")]},
    ],
)
def test_conversation(columns: dict[str, Any]) -> None:
    """A question and an answer become text_input and output; the row's own columns stay."""
    mapped = with_chat_columns(_row(**columns), BOTH)
    assert mapped.columns == {**columns, "text_input": "1", "output": "2"}
    assert mapped.place == "a.jsonl:7"


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [_message("system", "Add one."), _message("user", "1"), _message("assistant", "2")]},
        {"messages": [_message("developer", "Add one."), _message("user", "1"), _message("assistant", "2")]},
        {"contents": [_turn("user", "1"), _turn("model", "2")], "systemInstruction": _turn("system", "Add one.")},
        {"contents": [_turn("user", "1"), _turn("model", "2")], "system_instruction": "Add one."},
    ],
)
def test_system_message(columns: dict[str, Any]) -> None:
    """A system message becomes a column where the template names it, and is no silent loss where it does not."""
    assert with_chat_columns(_row(**columns), (*BOTH, "system")).columns["system"] == "Add one."
    with pytest.raises(DatasetError, match=r"^a\.jsonl:7: has a system message .*; name {{ system }} in it$"):
        with_chat_columns(_row(**columns), BOTH)


def test_no_system_message() -> None:
    """Where the template names the system message and there is none, it is empty."""
    row = _row(messages=[_message("user", "1")])
    assert with_chat_columns(row, ("text_input", "system")).columns["system"] == ""


def test_question_alone() -> None:
    """Only what is wanted has to be there: a question suffices for an input."""
    row = _row(messages=[_message("user", "1")])
    assert with_chat_columns(row, ["text_input"]).columns["text_input"] == "1"
    with pytest.raises(DatasetError, match="gives no output; write one user and one model turn"):
        with_chat_columns(row, BOTH)


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"text_input": "1", "output": "2", "messages": "x"}, BOTH),
        ({"messages": "x"}, ["messages"]),
        ({"text": "1"}, BOTH),
        ({"text": "1", "system": "2"}, ["system"]),
    ],
)
def test_untouched(columns: dict[str, Any], wanted: list[str]) -> None:
    """A row stays as it is where it has the columns, has no conversation, or the template wants neither."""
    row = _row(**columns)
    assert with_chat_columns(row, wanted) is row


def test_column_beside_a_conversation() -> None:
    """A column that the row has is not overruled by its conversation."""
    row = _row(output="two", messages=[_message("user", "1"), _message("assistant", "2")])
    assert with_chat_columns(row, BOTH).columns["output"] == "two"


USER, ASSISTANT = _message("user", "1"), _message("assistant", "2")
IMAGE = [{"type": "image_url", "image_url": {"url": "x"}}]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, "its conversation has 4 turns; only one user turn"),
        ({"messages": [ASSISTANT, USER]}, "its conversation has 2 turns; only one user turn"),
        ({"messages": []}, "its conversation has 0 turns; only one user turn"),
        ({"messages": "hello"}, "its conversation is no list of objects"),
        ({"messages": None}, "its conversation is no list of objects"),
        ({"messages": ["hello"]}, "its conversation is no list of objects"),
        ({"messages": [_message("user", IMAGE), ASSISTANT]}, "something other than text"),
        ({"messages": [USER, _message("assistant", None)]}, "something other than text"),
        ({"messages": [_message("tool", "1")]}, "a role that is unknown; use user, assistant, model"),
        ({"messages": [{"content": "1"}]}, "a role that is unknown"),
        ({"messages": [_message([], "1")]}, "a role that is unknown"),  # type: ignore[arg-type]
        ({"contents": [{"role": "user", "parts": [{"text": "1", "fileData": {}}]}]}, "something other than text"),
        ({"contents": [{"role": "user", "parts": ["1"]}]}, "something other than text"),
        ({"contents": [_turn("user", "1")], "systemInstruction": {"role": "system"}}, "something other than text"),
    ],
)
def test_unsuitable(columns: dict[str, Any], problem: str) -> None:
    """A conversation that is no single question and answer in text is refused with its place."""
    with pytest.raises(DatasetError, match=rf"^a\.jsonl:7: .*{problem}"):
        with_chat_columns(_row(**columns), BOTH)
