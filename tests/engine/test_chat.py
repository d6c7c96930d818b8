"""The chat format, derived from a tokenizer's own template."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine import tiny_model
from tunerun.engine import base_model, chat
from tunerun.engine.chat import ChatFormat
from tunerun.errors import BaseModelError
from tunerun.job import Example

LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] }} "
    "[/INST]{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def derived(folder: Path, chat_template: str | None, cache: Path) -> ChatFormat:
    model = tiny_model.model_of(tiny_model.build(folder, chat_template=chat_template))
    base_model.prepare(model, cache)
    return base_model.chat_format(base_model.find(model, cache), cache)


def test_template_with_turns(tmp_path: Path) -> None:
    """The end is the token that closes the model's turn, without what the template writes behind it."""
    expected = ChatFormat("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
    assert derived(tmp_path / "model", tiny_model.CHAT_TEMPLATE, tmp_path) == expected


def test_template_with_text_before_the_end(tmp_path: Path) -> None:
    """What the template writes between answer and end token belongs to the end."""
    expected = ChatFormat("<|im_start|>[INST] ", " [/INST]", " <|im_end|>")
    assert derived(tmp_path / "model", LLAMA_2, tmp_path) == expected


def test_no_template(tmp_path: Path) -> None:
    """A model without chat template gets a line break between input and output, and its end token."""
    assert derived(tmp_path / "model", None, tmp_path) == ChatFormat("", "\n", "<|im_end|>")


def test_template_that_hides_the_input(tmp_path: Path) -> None:
    """A template that does not show the user's text exactly once is refused."""
    with pytest.raises(BaseModelError, match="shows the user's text 0 times"):
        derived(tmp_path / "model", "{{ messages | length }}", tmp_path)


def test_prompt_and_target(tmp_path: Path) -> None:
    """A prompt is prefix, input, suffix; a target is output, end; a file keeps both to the character."""
    format_ = ChatFormat("<", "\n>\u2028", " é")
    assert format_.prompt(" a ") == "< a \n>\u2028"
    assert format_.target(Example("x", "b\n")) == "b\n é"
    chat.write(format_, tmp_path / "chat.json")
    assert chat.read(tmp_path / "chat.json") == format_
