"""Conversations and Alpaca's columns as rows."""

import json
from typing import Any

import pytest

from tunerun.dataset import ABSENT, Rows, SourceRow, with_conversations
from tunerun.examples import Conversation, Turn

BOTH = ("text_input", "output")


def _rows(*rows: dict[str, Any]) -> Rows:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name, ABSENT) for row in rows] for name in names}
    return Rows("a.jsonl", range(7, 7 + len(rows)), columns)


def _row(columns: dict[str, Any], wanted: Any = BOTH, warnings: tuple[str, ...] = ()) -> SourceRow:
    rows, findings = with_conversations(_rows(columns), wanted)
    assert findings.lines() == ()
    assert findings.warnings() == warnings
    (row,) = rows
    assert row.place == "a.jsonl:7"
    return row


def _read(columns: dict[str, Any], wanted: Any = BOTH) -> dict[str, Any]:
    return dict(_row(columns, wanted).columns)


def _refused(columns: dict[str, Any], wanted: Any = BOTH) -> str:
    rows, findings = with_conversations(_rows(columns), wanted)
    assert len(rows) == 0
    assert findings.file_lines() == ()
    (line,) = findings.lines()
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
        {"conversations": [_said("human", "1"), _said("gpt", "2")], "system": "Add one."},
        {"instruction": "1", "output": "2", "system": "Add one."},
        {"messages": [_message("system", "Add"), _message("developer", "one."), USER, ASSISTANT]},
    ],
)
def test_system_message(columns: dict[str, Any]) -> None:
    """A system message is kept with the conversation, and is a column too where the template names it."""
    system = "Add\none." if len(columns.get("messages", ())) > 3 else "Add one."
    assert _row(columns).conversation == Conversation("1", system)
    assert _read(columns, (*BOTH, "system"))["system"] == system


def test_no_system_message() -> None:
    """Where the template names the system message and there is none, it is empty."""
    assert _read({"messages": [USER]}, ("text_input", "system"))["system"] == ""


def test_two_system_messages() -> None:
    """A system message beside a column of that name is refused: one of them would be dropped."""
    columns = {"messages": [_message("system", "a"), USER, ASSISTANT], "system": "b"}
    assert "a column 'system'; keep one of them" in _refused(columns, (*BOTH, "system"))
    assert "a column 'system'; keep one of them" in _refused(columns)
    assert _row({"messages": [_message("system", "a"), USER, ASSISTANT], "system": None}).conversation is not None


def test_several_turns() -> None:
    """The last turn is the row's; those before it keep what is learned of them."""
    first, second = [_message("user", "a"), _message("assistant", "b", weight=0)], [USER, ASSISTANT]
    row = _row({"messages": [_message("system", "s"), *first, *second]})
    assert (row.columns["text_input"], row.columns["output"]) == ("1", "2")
    assert row.conversation == Conversation("1", "s", (Turn("a", "b", is_learned=False),))


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": [_message("user", "a"), _message("assistant", "b"), USER, ASSISTANT]},
        {"contents": [_turn("user", "a"), _turn("model", "b"), _turn("user", "1"), _turn("model", "2")]},
        {"conversations": [_said("human", "a"), _said("gpt", "b"), _said("human", "1"), _said("gpt", "2")]},
        {"instruction": "1", "output": "2", "history": [["a", "b"]]},
        {"instruction": "1", "output": "2", "history": '[["a", "b"]]'},
    ],
)
def test_several_turns_of_each_format(columns: dict[str, Any]) -> None:
    """OpenAI's, Gemini's, ShareGPT's and Alpaca's rows of two turns are the same conversation; both are learned."""
    row = _row(columns)
    assert (row.columns["text_input"], row.columns["output"]) == ("1", "2")
    assert row.conversation == Conversation("1", "", (Turn("a", "b"),))


@pytest.mark.parametrize(
    "tail", [[_message("user", "x")], [_message("user", "x"), _message("assistant", "y", weight=0)]]
)
def test_nothing_is_learned_at_the_end(tail: list[dict[str, Any]]) -> None:
    """Messages after the last learned answer are left out, with a warning that names the first."""
    what = "messages after the last answer of weight 1 are left out: nothing is learned from them (messages[2])"
    row = _row({"messages": [USER, ASSISTANT, *tail]}, warnings=(f"a.jsonl:7: {what}",))
    assert (row.columns["text_input"], row.columns["output"], row.conversation) == ("1", "2", None)


def test_messages_of_one_role_in_a_row() -> None:
    """They are joined with a line break, with a warning for each role."""
    said = [_message("user", "a"), USER, _message("assistant", "b"), ASSISTANT]
    joined = "in a row are joined with a line break"
    row = _row(
        {"messages": said},
        warnings=(
            f"a.jsonl:7: messages of the assistant {joined} (messages[3])",
            f"a.jsonl:7: messages of the user {joined} (messages[1])",
        ),
    )
    assert (row.columns["text_input"], row.columns["output"]) == ("a\n1", "b\n2")


@pytest.mark.parametrize(
    ("messages", "earlier"),
    [
        ([USER], ()),
        ([USER, ASSISTANT], ()),
        ([USER, _message("assistant", "2", weight=0)], ()),
        ([_message("user", "a"), _message("assistant", "b"), USER], (Turn("a", "b"),)),
        ([_message("user", "a"), _message("assistant", "b"), USER, ASSISTANT], (Turn("a", "b"),)),
    ],
)
def test_the_last_message_of_the_user_is_the_input(messages: list[dict[str, Any]], earlier: tuple[Turn, ...]) -> None:
    """Where no answer is wanted, or a column has it, the last message of the user is asked; its answer is ignored."""
    for columns, wanted in (({}, ["text_input"]), ({"output": "3"}, BOTH)):
        row = _row({"messages": messages, **columns}, wanted)
        assert row.columns["text_input"] == "1"
        assert (row.conversation.earlier if row.conversation else ()) == earlier
        assert row.columns.get("output") == columns.get("output")


def test_question_alone() -> None:
    """Only what is wanted has to be there: a question suffices for an input."""
    assert _read({"messages": [USER]}, ["text_input"])["text_input"] == "1"
    assert "has no answer to learn; end it with a message of the assistant" in _refused({"messages": [USER]})


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
    assert with_conversations(rows, wanted)[0] is rows


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


def test_rows_of_several_shapes() -> None:
    """Rows with columns of their own, conversations and rows that are refused may be in one file."""
    rows = _rows({"text_input": "1", "output": "2"}, {"messages": []}, {"conversations": [USER, ASSISTANT]})
    read, findings = with_conversations(rows, BOTH)
    assert [row.line for row in read] == [7, 9]
    assert list(read.columns["text_input"]) == ["1", "1"]
    assert list(read.columns["output"]) == ["2", "2"]
    assert len(findings) == 1


def test_ignored_keys() -> None:
    """What else a message holds is named once, with the number of rows."""
    named = {"messages": [_message("user", "1", name="ann"), _message("assistant", "2", id=3)]}
    rows, findings = with_conversations(_rows(named, named, named), BOTH)
    assert len(rows) == 3
    tail = "in a message is ignored; only its role and its text are used"
    assert findings.warnings() == (
        f"a.jsonl:7 and 2 more rows: 'id' {tail}",
        f"a.jsonl:7 and 2 more rows: 'name' {tail}",
    )


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"messages": [ASSISTANT, USER]}, "messages[0]: the assistant speaks first; begin with a message of the user"),
        ({"messages": []}, "its conversation has no message of the user"),
        ({"messages": [_message("system", "a")]}, "its conversation has no message of the user"),
        ({"messages": "hello"}, "messages: is not a list of objects; write each message as an object"),
        ({"messages": "[1"}, "messages: is not a list of objects"),
        ({"messages": None}, "messages: is not a list of objects"),
        ({"messages": ["hello"]}, "messages: is not a list of objects"),
        ({"messages": [USER, _message("system", "a"), ASSISTANT]}, "messages[1]: is a system message after the first"),
        ({"messages": [USER, ASSISTANT, _message("assistant", "3", weight=0)]}, "messages[2]: is a second answer in a"),
        (
            {"messages": [USER, _message("assistant", "2", weight=True), USER, _message("tool", "x")]},
            "messages[3]: has a",
        ),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "history[0]: is not an instruction and its answer"),
        (
            {"instruction": "a", "output": "b", "history": {"c": "d"}},
            "history[0]: is not an instruction and its answer",
        ),
        ({"instruction": "a", "output": "b", "system": 3}, "its column 'system' is not text"),
        ({"messages": [_message("user", IMAGE), ASSISTANT]}, "something other than text"),
        ({"messages": [USER, _message("assistant", None)]}, "something other than text"),
        ({"messages": [_message("tool", "1")]}, "a role that is unknown; use user, assistant, model"),
        ({"messages": [{"content": "1"}]}, "a role that is unknown"),
        ({"messages": [_message([], "1")]}, "a role that is unknown"),
        ({"contents": [{"role": "user", "parts": [{"text": "1", "fileData": {}}]}]}, "something other than text"),
        ({"contents": [{"role": "user", "parts": [{"text": "1", "thought": True}]}]}, "something other than text"),
        ({"contents": [{"role": "user", "parts": ["1"]}]}, "something other than text"),
        ({"contents": [_turn("user", "1")], "systemInstruction": {"role": "system"}}, "something other than text"),
        ({"messages": [USER, _message("assistant", "2", weight=0)]}, "no answer of its conversation has weight 1"),
        ({"messages": [USER, _message("assistant", "2", weight=0.5)]}, "messages[1]: has weight 0.5; write 1 for"),
        ({"messages": [USER, _message("assistant", "2", tool_calls=[{"id": 1}])]}, "messages[1]: holds 'tool_calls'"),
        ({"messages": [USER, _message("assistant", "2", function_call={"name": 1})]}, "holds 'function_call'"),
        ({"messages": [USER, _message("assistant", "2", reasoning_content="so")]}, "holds 'reasoning_content'"),
        ({"messages": [USER, _message("assistant", "2", train=False)]}, "holds 'train'"),
        ({"messages": [USER, _message("assistant", "2", loss_weight=0.0)]}, "holds 'loss_weight'"),
        ({"conversations": [_said("human", "1"), _said("function_call", "2")]}, "a role that is unknown"),
    ],
)
def test_unsuitable(columns: dict[str, Any], problem: str) -> None:
    """A conversation that cannot be learned, or holds more than text, is refused with its place."""
    line = _refused(columns)
    assert line.startswith("a.jsonl:7: ")
    assert problem in line
