"""A chat format as a chat template: rendering it gives the text of training."""

from __future__ import annotations

from dataclasses import replace

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.engine import chat_template
from tunerun.engine.chat_format import ChatFormat, EarlierTurns, SystemMessage
from tunerun.engine.export_template import template_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TURNS = EarlierTurns("<first>", "<asked>", "<next>")


def conversation(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


@given(prefix=TEXTS, suffix=TEXTS, start=st.sampled_from(["", " "]), end=TEXTS, text=TEXTS)
def test_an_input_is_rendered_in_the_chat_format(prefix: str, suffix: str, start: str, end: str, text: str) -> None:
    """The format and the input may contain quotes, braces, line breaks and characters of any alphabet."""
    chat = ChatFormat(prefix, suffix, end, start)
    template = template_of(chat, EarlierTurns(problem="it has none"))
    assert chat_template.render(template, conversation(text), {}) == chat.prompt(text)
    answered = chat_template.render(template, conversation(text, "yes"), {})
    assert answered == chat.prompt(text) + f"{start}yes{end}"


def test_earlier_turns_are_rendered_as_in_training() -> None:
    """They have the text that examples before an input have."""
    chat = ChatFormat("<prefix>", "<suffix>", "<end>")
    expected = "<first>1<asked>2<next>3<asked>4<next>5<suffix>"
    assert chat_template.render(template_of(chat, TURNS), conversation("1", "2", "3", "4", "5"), {}) == expected


@given(before=TEXTS, after=TEXTS, system=TEXTS, text=TEXTS)
def test_a_system_message_is_rendered_as_in_training(before: str, after: str, system: str, text: str) -> None:
    """It may come before one input or before earlier turns; an empty one is ignored."""
    chat = ChatFormat("<prefix>", "<suffix>", "<end>", " ")
    template = template_of(chat, replace(TURNS, system=SystemMessage(before, after)))
    messages = [{"role": "system", "content": system}, *conversation(text)]
    opening = f"{before}{system}{after}" if system else ""
    assert chat_template.render(template, messages, {}) == f"{opening or chat.prefix}{text}<suffix>"
    longer = [*messages, *conversation("1", "2", "3")[1:]]
    expected = f"{opening or TURNS.prefix}{text}<asked>2<next>3<suffix>"
    assert chat_template.render(template, longer, {}) == expected


@pytest.mark.parametrize(
    ("turns", "messages", "reason"),
    [
        (TURNS, [{"role": "system", "content": "x"}, *conversation("1")], "turns of user and assistant alone"),
        (EarlierTurns(problem="none"), conversation("1", "2", "3"), "one input and its answer"),
    ],
)
def test_what_was_not_trained_is_refused(turns: EarlierTurns, messages: list[dict[str, str]], reason: str) -> None:
    """A system message and longer conversations are refused if the format does not support them."""
    with pytest.raises(jinja2.TemplateError, match=reason):
        chat_template.render(template_of(ChatFormat("<", "|", ">"), turns), messages, {})
