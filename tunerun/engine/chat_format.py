"""The chat format: the text that a base model's chat template writes around an example's input and output.

It is derived once, when the base model is prepared, from a rendered conversation and not from the template's generation
prompt: the prompt of a reasoning model opens a thought, and that of gpt-oss lacks the channel, while rendered turns
have the form that the model was trained on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tunerun.engine import chat_template
from tunerun.errors import BaseModelError, NoTurnsError
from tunerun.files import replacing

TURNS_VERSION = 2
"""The version of `derive_turns`. Raise it when its results change. It is part of the keys of trials that train on
conversations, and of no others."""


@dataclass(frozen=True)
class ChatFormat:
    """Prompt = prefix + text_input + suffix; target = start + output + end.

    Attributes:
        prefix: everything before `text_input`: a system turn, the opening of the user's turn.
        suffix: everything between `text_input` and the target.
        end: everything after the output up to the token that ends the model's turn, inclusive; empty: there is none.
        start: spaces before `output`, which are part of the target.
    """

    prefix: str
    suffix: str
    end: str
    start: str = ""

    def prompt(self, text_input: str) -> str:
        """Return the prompt for an input; the same in training and in generation."""
        return f"{self.prefix}{text_input}{self.suffix}"

    @property
    def space_before_end(self) -> str:
        """White space between an answer and the token that ends it."""
        return self.end[: len(self.end) - len(self.end.lstrip())]


@dataclass(frozen=True)
class SystemMessage:
    """The format of a system message: before, text, after, first input.

    Attributes:
        before: everything before the text.
        after: everything between the text and the first input.
        problem: why the chat format does not support one, as a clause about the base model; None: it does.
    """

    before: str = ""
    after: str = ""
    problem: str | None = None

    def check(self) -> None:
        """Check that the chat format supports a system message.

        Raises:
            NoTurnsError: it does not.
        """
        if self.problem is not None:
            raise NoTurnsError(
                f"a system message cannot be given to the base model: {self.problem}; write its text into "
                "template.text_input instead"
            )


_NOT_DERIVED = SystemMessage(problem="what its chat template writes around one is not known")


@dataclass(frozen=True)
class EarlierTurns:
    """The format of the turns before the last input: prefix, input, suffix, output, between, next input.

    It differs from `ChatFormat` if a template writes earlier answers differently from the last one, for instance
    without an empty thought or with another end token. Training uses the form that the template writes.

    Attributes:
        prefix: everything before the first input, without a system message.
        suffix: everything between an earlier input and its output.
        between: everything between an earlier output and the next input.
        problem: why the chat format does not support earlier turns, as a clause about the base model; None: it does.
        end: the first part of `between`, up to the special token that ends the model's turn; empty: there is none.
        system: the format of a system message.
    """

    prefix: str = ""
    suffix: str = ""
    between: str = ""
    problem: str | None = None
    end: str = ""
    system: SystemMessage = _NOT_DERIVED

    @property
    def start(self) -> str:
        """The spaces before an earlier output; see `ChatFormat.start`."""
        return self.suffix[len(self.suffix.rstrip(" ")) :]

    def check(self) -> None:
        """Check that the chat format supports earlier turns.

        Raises:
            NoTurnsError: it does not.
        """
        if self.problem is not None:
            raise NoTurnsError(
                f"earlier turns cannot be given to the base model: {self.problem}; write them into the prompt's own "
                "text instead"
            )


def derive_turns(tokenizer: Any, chat: ChatFormat) -> EarlierTurns:
    """Derive the format of earlier turns and a system message from a chat template.

    Args:
        tokenizer: transformers' tokenizer of the base model.
        chat: the format of the last turn; a template that writes it differently after earlier turns is not supported.
    """
    try:
        template = chat_template.default_of(tokenizer.chat_template)
    except chat_template.UnusableTemplateError as error:
        return EarlierTurns(problem=str(error), system=SystemMessage(problem=str(error)))
    if template is None:
        problem = "it has no chat template"
        return EarlierTurns(problem=problem, system=SystemMessage(problem=problem))
    tokens = _token_texts(tokenizer)
    try:
        first, between, last = chat_template.around_turns(template, tokens)
    except chat_template.UnusableTemplateError as error:
        turns = EarlierTurns(problem=str(error))
    else:
        turns = EarlierTurns(*first, between, end=between[: _first_special_end(tokenizer, between) or 0])
        if last != f"{chat.suffix}{chat.start}":
            turns = EarlierTurns(problem="its chat template writes the last turn in another way where earlier ones are")
    try:
        system = SystemMessage(*chat_template.around_system(template, tokens, has_turns=turns.problem is None))
    except chat_template.UnusableTemplateError as error:
        system = SystemMessage(problem=str(error))
    return replace(turns, system=system)


def _token_texts(tokenizer: Any) -> dict[str, str]:
    return {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}


def derive(tokenizer: Any) -> ChatFormat:
    """Derive the chat format from a chat template, by rendering two marks and splitting the result at them.

    Without a chat template the prefix is the beginning-of-text token (if the tokenizer adds one), the suffix a line
    break, the end the end-of-text token.

    Args:
        tokenizer: transformers' tokenizer of the base model.

    Raises:
        BaseModelError: the chat template fails, or does not show each text exactly once.
    """
    tokens = _token_texts(tokenizer)
    try:
        template = chat_template.default_of(tokenizer.chat_template)
        if template is None:
            ids = tokenizer("a")["input_ids"]
            adds_beginning = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
            prefix = str(tokenizer.bos_token) if adds_beginning else ""
            return ChatFormat(prefix, suffix="\n", end=tokenizer.eos_token or "")
        prefix, between, after = chat_template.around(template, tokens)
    except chat_template.UnusableTemplateError as error:
        raise BaseModelError(f"the base model: {error}") from error
    # Tokenizers make one token of a space and the word after it, so spaces before an answer belong to the answer.
    suffix = between.rstrip(" ")
    # The end is the text after an answer up to its first special token; generation stops there and needs no more.
    end = _first_special_end(tokenizer, after)
    end_text = tokenizer.eos_token or "" if end is None else after[:end]
    return ChatFormat(prefix, suffix, end_text, start=between[len(suffix) :])


def _first_special_end(tokenizer: Any, text: str) -> int | None:
    """Return where the first special token in a text ends; None: it contains none."""
    specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    specials.add(tokenizer.eos_token or "")
    return min(
        (text.index(special) + len(special) for special in specials if special and special in text), default=None
    )


def write(chat: ChatFormat, file: Path) -> None:
    """Write a chat format as JSON; the caller makes the file appear complete or not at all."""
    file.write_text(json.dumps(asdict(chat), ensure_ascii=False, indent=1), encoding="utf-8")


def read(file: Path) -> ChatFormat:
    """Read what `write` wrote."""
    return ChatFormat(**json.loads(file.read_text(encoding="utf-8")))


_TURNS = TypeAdapter(EarlierTurns)


def write_turns(turns: EarlierTurns, file: Path) -> None:
    """Write the format of earlier turns as JSON, completely or not at all."""
    with replacing(file) as aside:
        aside.write_bytes(_TURNS.dump_json(turns, indent=1))


def read_turns(file: Path) -> EarlierTurns:
    """Read what `write_turns` wrote."""
    return _TURNS.validate_json(file.read_bytes())
