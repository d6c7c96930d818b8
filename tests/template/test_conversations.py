"""Conversations rendered by a template, turn by turn."""

from typing import Any

import pytest

from tunerun.errors import TemplateError
from tunerun.examples import Conversation, Example, Turn
from tunerun.job import TemplateText
from tunerun.schema import Template
from tunerun.stored import read_stored
from tunerun.template import PromptTemplate

BEFORE = Conversation("3", "Count.", (Turn("1", "2", is_learned=False),))
ROW = {"text_input": "3", "output": "4", "unit": "cm"}


def _render(conversation: Conversation | None = BEFORE, row: dict[str, Any] = ROW, /, **template: str) -> Example:
    return PromptTemplate(Template(**template)).render(row, conversation)


def test_each_turn_is_rendered() -> None:
    """The expressions are applied to each turn, with the row's other columns."""
    example = _render(text_input="{{ text_input }} {{ unit }}", output="={{ output }}")
    assert example == Example("3 cm", "=4", "Count.", (Turn("1 cm", "=2", is_learned=False),))
    assert PromptTemplate(Template()).render_input(ROW, BEFORE) == BEFORE


def test_no_conversation() -> None:
    """A row of one turn without a system message gives two texts, and a text to be asked with."""
    assert _render(None) == Example("3", "4")
    assert PromptTemplate(Template()).render_input(ROW) == "3"


@pytest.mark.parametrize(
    ("system", "sent"),
    [("", ""), (" \n", ""), ("Be brief.", "Be brief."), ("{{ system }} In {{ unit }}.", "Sum. In cm.")],
)
def test_system_of_the_template(system: str, sent: str) -> None:
    """A system message that the template gives is rendered for the row; a blank one means none."""
    template = PromptTemplate(Template(system=system))
    assert template.render({**ROW, "system": "Sum."}, Conversation("3", "Sum.")) == Example("3", "4", sent)
    asked = template.render_input({**ROW, "system": "Sum."}, Conversation("3", "Sum."))
    assert asked == (Conversation("3", sent) if sent else "3")


def test_system_in_the_text() -> None:
    """A template that names the system message in text_input sends it there alone."""
    example = _render(Conversation("3", "Sum."), {**ROW, "system": "Sum."}, text_input="{{ system }}|{{ text_input }}")
    assert example == Example("Sum.|3", "4")


@pytest.mark.parametrize("template", [{"text_input": "{{ unit }}"}, {"output": "{{ unit }}"}])
def test_turns_need_their_own_columns(template: dict[str, str]) -> None:
    """An expression that is the same for every turn renders no conversation of several."""
    (part,) = template
    with pytest.raises(TemplateError, match=rf"^template\.{part}: does not name {{{{ {part} }}}}, so that all turns"):
        _render(**template)


def test_columns_of_the_system_message() -> None:
    """The columns of the system message belong to those of the input; a syntax error in it names its key."""
    template = PromptTemplate(Template(system="{{ who }}"))
    assert template.input_columns == {"text_input", "who"}
    assert template.parts == ("text_input", "output", "system")
    assert PromptTemplate(Template()).columns_of("system") == frozenset()
    with pytest.raises(TemplateError, match=r"^template\.system: line 1: "):
        PromptTemplate(Template(system="{{ a b }}"))


def test_stored_templates() -> None:
    """A template that was stored without a system message is read, shown and hashed as it was then."""
    stored = {"text_input": "{{ a }}", "output": "{{ b }}"}
    template = read_stored(TemplateText, stored)
    assert template == Template(**stored).as_text()
    assert template.document == stored
    assert PromptTemplate(template).render({"a": "1", "b": "2"}) == Example("1", "2")
    assert TemplateText(system="x").document["system"] == "x"
