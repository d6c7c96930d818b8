"""Examples and conversations: what a model is trained on and what it is asked. Plain and picklable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user and its answer, earlier in a conversation.

    Attributes:
        is_learned: whether training learns the answer: the `weight` of OpenAI's messages, 1 or 0.
    """

    text_input: str
    output: str
    is_learned: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """The input of a model: the user's last message, and what precedes it.

    Attributes:
        system: the system message; empty: none, so the base model's default applies.
        text_input: the user's last message.
        earlier: the turns before the last message, oldest first.
    """

    text_input: str
    system: str = ""
    earlier: tuple[Turn, ...] = ()


Input = str | Conversation
"""The input of a model; a plain text is short for a conversation with one message."""


def as_conversation(model_input: Input) -> Conversation:
    """Return an input as a conversation."""
    return Conversation(model_input) if isinstance(model_input, str) else model_input


def texts_of(model_input: Input) -> list[str]:
    """Return the non-empty texts of an input in order: system message, earlier turns, last message."""
    if isinstance(model_input, str):
        return [model_input]
    before = [model_input.system] if model_input.system else []
    return [
        *before,
        *(text for turn in model_input.earlier for text in (turn.text_input, turn.output)),
        model_input.text_input,
    ]


def messages_of(model_input: Input) -> list[dict[str, str]]:
    """Return an input as messages with `role` and `content`, as chat templates and OpenAI's API expect."""
    whole = as_conversation(model_input)
    messages = [("system", whole.system)] if whole.system else []
    for turn in whole.earlier:
        messages += [("user", turn.text_input), ("assistant", turn.output)]
    return [{"role": role, "content": text} for role, text in (*messages, ("user", whole.text_input))]


def as_text(model_input: Input) -> str:
    """Return an input as readable text that is unique to it: a conversation as lines of `user: ...`."""
    if isinstance(model_input, str):
        return model_input
    lines = [f"system: {model_input.system}"] if model_input.system else []
    for turn in model_input.earlier:
        lines += [f"user: {turn.text_input}", f"assistant{'' if turn.is_learned else ' (weight 0)'}: {turn.output}"]
    return "\n".join([*lines, f"user: {model_input.text_input}"])


@dataclass(frozen=True, slots=True)
class Example:
    """One training or held-out example, after the template: a conversation of one or more turns.

    Attributes:
        text_input, output: the last turn, whose answer is always learned.
        system: the system message; empty: none, so the base model's default applies.
        earlier: the turns before the last one, oldest first.
    """

    text_input: str
    output: str
    system: str = ""
    earlier: tuple[Turn, ...] = ()

    @property
    def input(self) -> Input:
        """The input that precedes the last answer; a plain text if nothing precedes its message."""
        if self.is_conversation:
            return Conversation(self.text_input, self.system, self.earlier)
        return self.text_input

    @property
    def document(self) -> dict[str, Any]:
        """The JSON form that is hashed; a single turn without a system message is just its two texts."""
        # Examples of one turn had digests before there were conversations, so theirs must not get new keys.
        document: dict[str, Any] = {"output": self.output, "text_input": self.text_input}
        if self.system:
            document["system"] = self.system
        if self.earlier:
            document["earlier"] = [
                {"text_input": turn.text_input, "output": turn.output, "is_learned": turn.is_learned}
                for turn in self.earlier
            ]
        return document

    @property
    def is_conversation(self) -> bool:
        """Whether it is more than one input and its output."""
        return bool(self.system or self.earlier)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All its turns, the last one included."""
        return (*self.earlier, Turn(self.text_input, self.output))


def behind_examples(model_input: Input, examples: Sequence[Example]) -> Input:
    """Return an input with few-shot examples, inserted between its system message and its own earlier turns.

    Args:
        model_input: what the model is asked.
        examples: all their turns are included; their system messages are omitted.
    """
    if not examples:
        return model_input
    # The last answer of an example may depend on its earlier turns; a conversation has one system message, the input's.
    turns = tuple(turn for example in examples for turn in example.turns)
    own = as_conversation(model_input)
    return Conversation(own.text_input, own.system, turns + own.earlier)


@dataclass(frozen=True)
class ExampleSet:
    """Examples after the template.

    Attributes:
        digest: digest of the examples.
        source: the file that they were read from.
        rows: digest of the source rows in order, independent of the template; empty: unknown.
        clusters: cluster number of each held-out example; empty: each is its own cluster, or unknown.
    """

    digest: str
    source: str
    examples: tuple[Example, ...]
    rows: str = ""
    clusters: tuple[int, ...] = ()

    @cached_property
    def has_conversations(self) -> bool:
        """Whether any example has a system message or more than one turn."""
        return any(example.is_conversation for example in self.examples)
