"""Conversations and Alpaca's columns as rows."""

import json
from typing import Any

import pytest

from tunerun.dataset import ABSENT, Findings, Rows, with_conversations

BOTH = ("text_input", "output")


def _rows(*rows: dict[str, Any]) -> Rows:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name, ABSENT) for row in rows] for name in names}
    return Rows("a.jsonl", range(7, 7 + len(rows)), columns)


def _read(columns: dict[str, Any], wanted: Any = BOTH) -> dict[str, Any]:
    findings = Findings()
    rows = with_conversations(_rows(columns), wanted, findings)
    assert findings.lines == ()
    (row,) = rows
    assert row.place == "a.jsonl:7"
    return dict(row.columns)


def _refused(columns: dict[str, Any], wanted: Any = BOTH) -> str:
    findings = Findings()
    assert len(with_conversations(_rows(columns), wanted, findings)) == 0
    assert findings.file_lines == ()
    (line,) = findings.lines
    return line


def _message(role: Any, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _turn(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text} for text in texts]}


def _said(who: str, value: str) -> dict[str, Any]:
    return {"from": who, "value": value}


USER, ASSISTANT = _message("user", "1"), _message("assistant", "2")
IMAGE = [{"type": "image_url", "image_url": {"url": "x"}}]


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [USER, ASSISTANT]},
        {"messages": [_message("user", [{"type": "text", "text": "1"}]), ASSISTANT]},
        {"messages": [_message("user", [{"type": "text", "value": "1"}]), ASSISTANT]},
        {"messages": [_message("system", ""), USER, ASSISTANT]},
        {"messages": json.dumps([USER, ASSISTANT])},
        {"messages": [USER, _message("assistant", "2", weight=1)]},
        {"messages": [_message("user", "1", weight=0), ASSISTANT]},
        {"messages": [USER, _message("assistant", "2", tool_calls=[], refusal=None, weight=None)]},
        {"contents": [_turn("user", "1"), _turn("model", "2")]},
        {"contents": [_turn("user", "1", ""), _turn("model", "2")]},
        {"contents": [{"role": "user", "parts": [{"text": "1", "fileData": None}]}, _turn("model", "2")]},
        {"contents": json.dumps([_turn("user", "1"), _turn("model", "2")]), "systemInstruction": ""},
        {"conversations": [_said("human", "1"), _said("gpt", "2")]},
        {"conversations": [_said("user", "1"), _said("assistant", "2")]},
        {"conversations": [USER, ASSISTANT]},
        {"conversations": json.dumps([_said("system", ""), _said("human", "1"), _said("gpt", "2")])},
    ],
)
def test_conversation(columns: dict[str, Any]) -> None:
    """A question and an answer become text_input and output; the row's own columns stay."""
    assert _read(columns) == {**columns, "text_input": "1", "output": "2"}


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [_message("system", "Add one."), USER, ASSISTANT]},
        {"messages": [_message("developer", "Add one."), USER, ASSISTANT]},
        {"contents": [_turn("user", "1"), _turn("model", "2")], "systemInstruction": _turn("system", "Add one.")},
        {"contents": [_turn("user", "1"), _turn("model", "2")], "system_instruction": "Add one."},
        {"conversations": [_said("system", "Add one."), _said("human", "1"), _said("gpt", "2")]},
    ],
)
def test_system_message(columns: dict[str, Any]) -> None:
    """A system message becomes a column where the template names it, and is not dropped silently where it does not."""
    assert _read(columns, (*BOTH, "system"))["system"] == "Add one."
    assert _refused(columns) == "a.jsonl:7: has a system message that the template omits; name {{ system }} in it"


def test_no_system_message() -> None:
    """Where the template names the system message and there is none, it is empty."""
    assert _read({"messages": [USER]}, ("text_input", "system"))["system"] == ""


def test_two_system_messages() -> None:
    """A system message beside a column of that name is refused: one of them would be dropped."""
    columns = {"messages": [_message("system", "a"), USER, ASSISTANT], "system": "b"}
    assert "a column 'system'; keep one of them" in _refused(columns, (*BOTH, "system"))


def test_question_alone() -> None:
    """Only what is wanted has to be there: a question suffices for an input."""
    assert _read({"messages": [USER]}, ["text_input"])["text_input"] == "1"
    assert "has no output; write one user and one model turn" in _refused({"messages": [USER]})


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"text_input": "1", "output": "2", "messages": "x"}, BOTH),
        ({"messages": "x"}, ["messages"]),
        ({"text": "1"}, BOTH),
        ({"text": "1", "system": "2"}, ["system"]),
        ({"instruction": "1", "input": "2", "output": "3"}, ["instruction", "input", "output"]),
        ({"input": "1", "output": "2"}, BOTH),
    ],
)
def test_untouched(columns: dict[str, Any], wanted: list[str]) -> None:
    """Rows stay as they are where they have the columns, hold no conversation, or the template wants neither."""
    rows = _rows(columns)
    assert with_conversations(rows, wanted, Findings()) is rows


def test_column_beside_a_conversation() -> None:
    """A column that the row has is not overruled by its conversation."""
    assert _read({"output": "two", "messages": [USER, ASSISTANT]})["output"] == "two"


@pytest.mark.parametrize(
    ("columns", "text_input"),
    [
        ({"instruction": "Sum", "input": "1 and 2"}, "Sum\n1 and 2"),
        ({"instruction": "Name a color", "input": ""}, "Name a color"),
        ({"instruction": "Name a color", "input": None, "history": []}, "Name a color"),
        ({"instruction": "Name a color"}, "Name a color"),
    ],
)
def test_alpaca(columns: dict[str, Any], text_input: str) -> None:
    """An instruction and its optional input become text_input."""
    assert _read({**columns, "output": "x"})["text_input"] == text_input


def test_alpaca_with_earlier_turns() -> None:
    """Earlier turns of Alpaca's rows are not dropped silently."""
    line = _refused({"instruction": "a", "output": "b", "history": [["c", "d"]]})
    assert line.startswith("a.jsonl:7: has earlier turns in 'history'")


def test_rows_of_several_shapes() -> None:
    """Rows with columns of their own, conversations and rows that are refused may be in one file."""
    findings = Findings()
    rows = _rows({"text_input": "1", "output": "2"}, {"messages": []}, {"conversations": [USER, ASSISTANT]})
    read = with_conversations(rows, BOTH, findings)
    assert [row.line for row in read] == [7, 9]
    assert list(read.columns["text_input"]) == ["1", "1"]
    assert list(read.columns["output"]) == ["2", "2"]
    assert len(findings) == 1


def test_ignored_keys() -> None:
    """What else a message holds is named once, with the number of rows."""
    findings = Findings()
    named = {"messages": [_message("user", "1", name="ann"), _message("assistant", "2", id=3)]}
    assert len(with_conversations(_rows(named, named, named), BOTH, findings)) == 3
    tail = "in a message is ignored; only its role and its text are used"
    assert findings.warnings == (
        f"a.jsonl:7 and 2 more rows: 'id' {tail}",
        f"a.jsonl:7 and 2 more rows: 'name' {tail}",
    )


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, "its conversation has 4 turns; only one user turn"),
        ({"messages": [ASSISTANT, USER]}, "its conversation has 2 turns; only one user turn"),
        ({"messages": []}, "its conversation has 0 turns; only one user turn"),
        ({"messages": "hello"}, "its conversation is not a list of objects"),
        ({"messages": "[1"}, "its conversation is not a list of objects"),
        ({"messages": None}, "its conversation is not a list of objects"),
        ({"messages": ["hello"]}, "its conversation is not a list of objects"),
        ({"messages": [_message("user", IMAGE), ASSISTANT]}, "something other than text"),
        ({"messages": [USER, _message("assistant", None)]}, "something other than text"),
        ({"messages": [_message("tool", "1")]}, "a role that is unknown; use user, assistant, model"),
        ({"messages": [{"content": "1"}]}, "a role that is unknown"),
        ({"messages": [_message([], "1")]}, "a role that is unknown"),
        ({"contents": [{"role": "user", "parts": [{"text": "1", "fileData": {}}]}]}, "something other than text"),
        ({"contents": [{"role": "user", "parts": [{"text": "1", "thought": True}]}]}, "something other than text"),
        ({"contents": [{"role": "user", "parts": ["1"]}]}, "something other than text"),
        ({"contents": [_turn("user", "1")], "systemInstruction": {"role": "system"}}, "something other than text"),
        ({"messages": [USER, _message("assistant", "2", weight=0)]}, "the answer has weight 0; only weight 1 can be"),
        ({"messages": [USER, _message("assistant", "2", weight=0.5)]}, "the answer has weight 0.5"),
        ({"messages": [USER, _message("assistant", "2", tool_calls=[{"id": 1}])]}, "a message holds 'tool_calls'"),
        ({"messages": [USER, _message("assistant", "2", function_call={"name": 1})]}, "holds 'function_call'"),
        ({"messages": [USER, _message("assistant", "2", reasoning_content="so")]}, "holds 'reasoning_content'"),
        ({"messages": [USER, _message("assistant", "2", train=False)]}, "holds 'train'"),
        ({"messages": [USER, _message("assistant", "2", loss_weight=0.0)]}, "holds 'loss_weight'"),
        ({"conversations": [_said("human", "1"), _said("function_call", "2")]}, "a role that is unknown"),
    ],
)
def test_unsuitable(columns: dict[str, Any], problem: str) -> None:
    """A conversation that is not a single question and answer in text is refused with its place."""
    line = _refused(columns)
    assert line.startswith("a.jsonl:7: ")
    assert problem in line
