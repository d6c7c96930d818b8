"""The chat format: what is before, between and after an example's two texts when a model sees them.

It is what the base model's own chat template puts around an assistant's turn, taken from a rendered conversation and
not from the template's generation prompt: a reasoning model's prompt opens a thought, gpt-oss' no channel, while their
rendered turns are the answers that they were trained on. It is derived once, when the base model is prepared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tunerun.engine import chat_template
from tunerun.errors import BaseModelError, NoTurnsError
from tunerun.files import replacing
from tunerun.job import Example


@dataclass(frozen=True)
class ChatFormat:
    """Prompt = prefix + text_input + suffix; target = start + output + end.

    Attributes:
        prefix: everything before `text_input`: a system turn, the opening of the user's turn.
        suffix: everything between `text_input` and the target.
        end: what ends the model's turn, up to and with the token that ends it; empty if the model has none.
        start: spaces before `output`: tokenizers make one token of a space and the word behind it, so that it belongs
            to what the model answers.
    """

    prefix: str
    suffix: str
    end: str
    start: str = ""

    def prompt(self, text_input: str) -> str:
        """Return what the model is sent for an input, in training and in generation alike."""
        return f"{self.prefix}{text_input}{self.suffix}"

    def target(self, example: Example) -> str:
        """Return what the model learns to answer."""
        return f"{self.start}{example.output}{self.end}"

    @property
    def space_before_end(self) -> str:
        """White space between an answer and the token that ends it."""
        return self.end[: len(self.end) - len(self.end.lstrip())]


@dataclass(frozen=True)
class SystemMessage:
    """What is around the text of a system message: before, text, after, first input.

    Attributes:
        before: everything before the text.
        after: everything between the text and the first input.
        problem: why the chat format has no place for one, as a clause about the base model; None: it has.
    """

    before: str = ""
    after: str = ""
    problem: str | None = None

    def check(self) -> None:
        """Refuse a system message where there is no place for one.

        Raises:
            NoTurnsError: there is none.
        """
        if self.problem is not None:
            raise NoTurnsError(
                f"a system message cannot be given to the base model: {self.problem}; write its text into "
                "template.text_input instead"
            )


_NOT_DERIVED = SystemMessage(problem="what its chat template writes around one is not known")


@dataclass(frozen=True)
class EarlierTurns:
    """What is around the texts before the last input: prefix, input, suffix, output, between, next input.

    It differs from a `ChatFormat` where a template writes earlier answers in another way than the last one: without
    an empty thought, with another token at the end. Training learns them as they are written.

    Attributes:
        prefix: everything before the first input, where there is no system message.
        suffix: everything between an earlier input and its output.
        between: everything between an earlier output and the next input.
        problem: why the chat format has no place for earlier turns, as a clause about the base model; None: it has.
        end: the beginning of `between` that ends the model's turn, up to and with a special token; empty: it has none.
        system: what is around a system message.
    """

    prefix: str = ""
    suffix: str = ""
    between: str = ""
    problem: str | None = None
    end: str = ""
    system: SystemMessage = _NOT_DERIVED

    @property
    def start(self) -> str:
        """Spaces before an earlier output, as `ChatFormat.start`."""
        return self.suffix[len(self.suffix.rstrip(" ")) :]

    def check(self) -> None:
        """Refuse earlier turns where there is no place for them.

        Raises:
            NoTurnsError: there is none.
        """
        if self.problem is not None:
            raise NoTurnsError(
                f"earlier turns cannot be given to the base model: {self.problem}; write them into the prompt's own "
                "text instead"
            )


def derive_turns(tokenizer: Any, chat: ChatFormat) -> EarlierTurns:
    """Take from a transformers tokenizer's chat template what is around earlier turns and a system message."""
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
    return replace(turns, system=_derive_system(template, tokens, has_turns=turns.problem is None))


def _derive_system(template: str, tokens: Mapping[str, str], *, has_turns: bool) -> SystemMessage:
    try:
        return SystemMessage(*chat_template.around_system(template, tokens, has_turns=has_turns))
    except chat_template.UnusableTemplateError as error:
        return SystemMessage(problem=str(error))


def _token_texts(tokenizer: Any) -> dict[str, str]:
    return {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}


def derive(tokenizer: Any) -> ChatFormat:
    """Split what a transformers tokenizer's chat template renders around two marks.

    Without a chat template the prefix is the beginning-of-text token (if the tokenizer adds one), the suffix a line
    break, the end the end-of-text token.

    Raises:
        BaseModelError: the chat template fails, or does not show each text exactly once.
    """
    tokens = _token_texts(tokenizer)
    try:
        template = chat_template.default_of(tokenizer.chat_template)
        if template is None:
            return ChatFormat(prefix=_beginning(tokenizer), suffix="\n", end=tokenizer.eos_token or "")
        prefix, between, after = chat_template.around(template, tokens)
    except chat_template.UnusableTemplateError as error:
        raise BaseModelError(f"the base model: {error}") from error
    suffix = between.rstrip(" ")
    return ChatFormat(prefix, suffix, _end_of_turn(tokenizer, after), start=between[len(suffix) :])


def _beginning(tokenizer: Any) -> str:
    tokens = tokenizer("a")["input_ids"]
    adds_beginning = tokenizer.bos_token_id is not None and tokens[:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if adds_beginning else ""


def _end_of_turn(tokenizer: Any, after: str) -> str:
    """Return what follows an answer up to its first special token: generation stops there, so nothing after counts."""
    end = _first_special_end(tokenizer, after)
    return tokenizer.eos_token or "" if end is None else after[:end]


def _first_special_end(tokenizer: Any, text: str) -> int | None:
    """Return where the first special token in a text ends; None: it holds none."""
    specials = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    specials.add(tokenizer.eos_token or "")
    return min(
        (text.index(special) + len(special) for special in specials if special and special in text), default=None
    )


def write(chat: ChatFormat, file: Path) -> None:
    """Write a chat format as JSON."""
    file.write_text(json.dumps(asdict(chat), ensure_ascii=False, indent=1), encoding="utf-8")


def read(file: Path) -> ChatFormat:
    """Read what `write` wrote."""
    return ChatFormat(**json.loads(file.read_text(encoding="utf-8")))


_TURNS = TypeAdapter(EarlierTurns)


def write_turns(turns: EarlierTurns, file: Path) -> None:
    """Write what is around earlier turns as JSON, whole or not at all."""
    with replacing(file) as aside:
        aside.write_bytes(_TURNS.dump_json(turns, indent=1))


def read_turns(file: Path) -> EarlierTurns:
    """Read what `write_turns` wrote."""
    return _TURNS.validate_json(file.read_bytes())
