"""The chat format: what stands before and after an example's two texts when a model sees them.

It is derived once from the base model's own chat template, when the model is prepared, so that a template that shows
today's date cannot change between training and a call of the tuned model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunerun.errors import BaseModelError
from tunerun.job import Example

_INPUT_MARK = "tunerun7input7mark"
_OUTPUT_MARK = "tunerun7output7mark"


@dataclass(frozen=True)
class ChatFormat:
    """Prompt = prefix + text_input + suffix; target = output + end.

    Attributes:
        prefix: everything before `text_input`: a system turn, the opening of the user's turn.
        suffix: everything between `text_input` and `output`.
        end: the token that ends the model's turn, as text; empty if the model has none.
    """

    prefix: str
    suffix: str
    end: str

    def prompt(self, text_input: str) -> str:
        """Return what the model is sent for an input, in training and in generation alike."""
        return f"{self.prefix}{text_input}{self.suffix}"

    def target(self, example: Example) -> str:
        """Return what the model learns to answer."""
        return f"{example.output}{self.end}"


def derive(tokenizer: Any) -> ChatFormat:
    """Split what a transformers tokenizer's chat template renders around two marks.

    Without a chat template the prefix is the beginning-of-text token (if the tokenizer adds one), the suffix a line
    break, the end the end-of-text token.

    Raises:
        BaseModelError: the chat template does not show the user's text exactly once.
    """
    if not tokenizer.chat_template:
        return ChatFormat(prefix=_beginning(tokenizer), suffix="\n", end=tokenizer.eos_token or "")
    turns = [{"role": "user", "content": _INPUT_MARK}]
    prompt = _render(tokenizer, turns, add_generation_prompt=True)
    if prompt.count(_INPUT_MARK) != 1:
        raise BaseModelError(
            f"the base model's chat template shows the user's text {prompt.count(_INPUT_MARK)} times; tunerun needs it "
            "exactly once; choose another base model, or remove its chat template"
        )
    prefix, suffix = prompt.split(_INPUT_MARK)
    return ChatFormat(prefix=prefix, suffix=suffix, end=_end_of_turn(tokenizer, turns))


def _render(tokenizer: Any, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(rendered)


def _beginning(tokenizer: Any) -> str:
    tokens = tokenizer("a")["input_ids"]
    adds_beginning = tokenizer.bos_token_id is not None and tokens[:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if adds_beginning else ""


def _end_of_turn(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """Return what follows an answer up to its first special token: generation stops there, so nothing after counts."""
    answered = _render(tokenizer, [*turns, {"role": "assistant", "content": _OUTPUT_MARK}], add_generation_prompt=False)
    tail = answered.rpartition(_OUTPUT_MARK)[2]
    specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = [tail.index(special) + len(special) for special in specials if special in tail]
    return tail[: min(ends)] if ends else tokenizer.eos_token or ""


def write(chat: ChatFormat, file: Path) -> None:
    """Write a chat format as JSON."""
    file.write_text(json.dumps(asdict(chat), ensure_ascii=False, indent=1), encoding="utf-8")


def read(file: Path) -> ChatFormat:
    """Read what `write` wrote."""
    return ChatFormat(**json.loads(file.read_text(encoding="utf-8")))
