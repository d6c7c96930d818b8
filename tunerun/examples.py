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


def as_conversation(asked: Input) -> Conversation:
    """Return an input as a conversation."""
    return Conversation(asked) if isinstance(asked, str) else asked


def texts_of(asked: Input) -> list[str]:
    """Return the non-empty texts of an input in order: system message, earlier turns, last message."""
    if isinstance(asked, str):
        return [asked]
    before = [asked.system] if asked.system else []
    return [*before, *(text for turn in asked.earlier for text in (turn.text_input, turn.output)), asked.text_input]


def messages_of(asked: Input) -> list[dict[str, str]]:
    """Return an input as messages with `role` and `content`, as chat templates and OpenAI's API expect."""
    whole = as_conversation(asked)
    said = [("system", whole.system)] if whole.system else []
    for turn in whole.earlier:
        said += [("user", turn.text_input), ("assistant", turn.output)]
    return [{"role": role, "content": text} for role, text in (*said, ("user", whole.text_input))]


def as_text(asked: Input) -> str:
    """Return an input as readable text that is unique to it: a conversation as lines of `user: ...`."""
    if isinstance(asked, str):
        return asked
    lines = [f"system: {asked.system}"] if asked.system else []
    for turn in asked.earlier:
        lines += [f"user: {turn.text_input}", f"assistant{'' if turn.is_learned else ' (weight 0)'}: {turn.output}"]
    return "\n".join([*lines, f"user: {asked.text_input}"])


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
        found: dict[str, Any] = {"output": self.output, "text_input": self.text_input}
        if self.system:
            found["system"] = self.system
        if self.earlier:
            found["earlier"] = [
                {"text_input": turn.text_input, "output": turn.output, "is_learned": turn.is_learned}
                for turn in self.earlier
            ]
        return found

    @property
    def is_conversation(self) -> bool:
        """Whether it is more than one input and its output."""
        return bool(self.system or self.earlier)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All its turns, the last one included."""
        return (*self.earlier, Turn(self.text_input, self.output))


def behind_examples(asked: Input, examples: Sequence[Example]) -> Input:
    """Return an input with few-shot examples, inserted between its system message and its own earlier turns.

    All turns of an example are included, since its last answer may depend on them. Its system message is omitted: a
    conversation has only one, the input's.
    """
    if not examples:
        return asked
    shown = tuple(turn for example in examples for turn in example.turns)
    own = as_conversation(asked)
    return Conversation(own.text_input, own.system, shown + own.earlier)


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
