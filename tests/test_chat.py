"""Conversations with a model: the prompt of each message, and warnings about system messages."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tunerun import schema
from tunerun.chat import Chat
from tunerun.cli import chat as command
from tunerun.errors import InputError, TemplateError
from tunerun.examples import Conversation, Example, Turn
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TunedModel
from tunerun.prediction import CallableModel, OpenModel
from tunerun.template import PromptTemplate
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

BASE = BaseModelRef("base", "nowhere")
TUNED = TunedModel("tunedModels/t", BASE, "tunedModels/t")


def repeats(model: BaseModelRef | TunedModel, conversation: Conversation) -> str:
    """An answer that repeats the whole conversation."""
    turns = "".join(f"{turn.text_input}>{turn.output};" for turn in conversation.earlier)
    return f"{model.name}[{conversation.system}|{turns}{conversation.text_input}]"


def opened(service: ScriptedService | None = None, **template: str) -> OpenModel:
    service = service or ScriptedService(answers=lambda _, text: text.upper(), answers_conversation=repeats)
    backend = schema.Experiment.model_fields["backend"].default
    model = CallableModel(TUNED, PromptTemplate(schema.Template(**template)), backend, GenerateOptions(), 0, None)
    return OpenModel(model, GenerateOptions(), ScriptedBackend(service))


def trained(*systems: str, earlier: tuple[Turn, ...] = (Turn("a", "b"),)) -> Sequence[Example]:
    return [Example("c", "d", system, earlier) for system in systems]


def test_messages_are_rendered_and_remembered() -> None:
    """Each message is rendered by text_input after the earlier turns; a reset forgets them; the first prompt is predict's."""
    chat = Chat(opened(text_input="Q: {{ question }}"))
    assert chat.say("one") == "Q: ONE"
    assert chat.say("two") == "tunedModels/t[|Q: one>Q: ONE;Q: two]"
    chat.reset()
    assert chat.say("three") == "Q: THREE"
    assert Chat(opened(), system="S", is_base=True).say("x") == "base[S|x]"


def test_other_columns() -> None:
    """Other columns of the template keep their values; the message fills the remaining column."""
    template: dict[str, Any] = {"text_input": "{{ context }} {{ question }}"}
    assert Chat(opened(**template), columns={"context": "here:"}).say("why") == "HERE: WHY"
    with pytest.raises(InputError, match=r"^--chat: template\.text_input reads 'context', 'question'; give all but"):
        Chat(opened(**template))
    with pytest.raises(InputError, match=r"gives every column of template\.text_input; omit the message's own"):
        Chat(opened(**template), columns={"context": "a", "question": "b"})


def test_system_message_of_training() -> None:
    """The system message that all training rows shared is sent; if they differ, none is, with a warning."""
    chat = Chat(opened(), training=trained("S", "S"))
    assert (chat.say("x"), chat.warnings) == ("tunedModels/t[S|x]", [])
    chat = Chat(opened(), training=trained("S", "T"))
    assert chat.say("x") == "X"
    assert chat.warnings == ["system message: training had 2 different ones and none is sent; give one with --system"]


@pytest.mark.parametrize(("systems", "reason"), [(("",), "training had none"), (("S",), "it is not one of training's")])
def test_a_system_message_that_was_not_trained(systems: Sequence[str], reason: str) -> None:
    """Another system message than training's is sent, with a warning."""
    chat = Chat(opened(), system="N", training=trained(*systems))
    assert chat.say("x") == "tunedModels/t[N|x]"
    assert chat.warnings == [f"system message: {reason}, so that answers to it were not learned"]


def test_one_turn_of_training() -> None:
    """A model that was trained on one turn answers a second one with a warning."""
    assert Chat(opened(), training=trained("", earlier=())).warnings == [
        "training had rows of one turn; what is answered after the first was not learned"
    ]


def test_system_message_of_the_template() -> None:
    """The template's system message is used; --system fills its {{ system }}, and is refused if there is none."""
    assert Chat(opened(system="Be brief.")).say("x") == "tunedModels/t[Be brief.|x]"
    assert Chat(opened(system="Be {{ system }}."), system="kind").say("x") == "tunedModels/t[Be kind.|x]"
    assert Chat(opened(text_input="{{ system }}: {{ text_input }}"), system="kind").say("x") == "KIND: X"
    with pytest.raises(InputError, match=r"^--system: template\.system says the system message of this model"):
        Chat(opened(system="Be brief."), system="kind")


def test_rows_of_messages() -> None:
    """A row of messages is answered at its last user message; an error names the message's position."""
    turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages = [{"role": role, "content": text} for role, text in turns]
    with opened(text_input="<{{ text_input }}>") as model:
        rows: list[dict[str, Any]] = [{"messages": messages}, {"messages": messages[:4]}, {"text_input": "x"}]
        repeated = "tunedModels/t[S|<a>>b;<c>]"
        assert model.many(rows) == [repeated, repeated, "<X>"]
        assert model(messages=messages[1:2]) == "<A>"
        with pytest.raises(TemplateError, match=r"^row 2: messages\[0\]: the assistant speaks first"):
            model.many([rows[0], {"messages": messages[2:]}])


def test_a_file_of_messages(tmp_path: Path) -> None:
    """A file of conversations is answered row by row."""
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    assert opened().many(tmp_path / "rows.jsonl") == ["A"]


def test_lines_from_another_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each piped line is a message; /reset forgets the conversation, and blank lines are skipped."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n/reset\nthree\n"))
    command.talk(Chat(opened(), training=trained("", earlier=())))
    printed = capsys.readouterr()
    assert printed.out == "ONE\ntunedModels/t[|one>ONE;two]\nTHREE\n"
    assert printed.err.startswith("warning: training had rows of one turn")


class Terminal(io.StringIO):
    """Standard input of a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A message that cannot be answered is reported and forgotten; the conversation lasts until the end of input."""
    monkeypatch.setattr(sys, "stdin", Terminal("one\ntoo long\n\ntwo\n"))

    def answer(_: object, text: str) -> str:
        if text == "too long":
            raise InputError("input 1 has 9,000 tokens")
        return text.upper()

    command.talk(
        Chat(
            opened(
                ScriptedService(
                    answers=answer, answers_conversation=lambda model, whole: answer(model, whole.text_input)
                )
            )
        )
    )
    printed = capsys.readouterr()
    assert printed.out.replace("> ", "") == "ONE\nTWO\n"
    assert "tunedModels/t: a line is a message, /reset forgets what was said, Ctrl-D ends\n" in printed.err
    assert "error: input 1 has 9,000 tokens; /reset begins again\n" in printed.err
