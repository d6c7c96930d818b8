"""How many tokens an example has: exact with the base model's tokenizer, else an estimate that says so."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunerun.engine import base_model, prepared_model
from tunerun.engine.chat import ChatFormat, EarlierTurns
from tunerun.job import BaseModelRef, Conversation, Example, Input, as_conversation, behind_examples, texts_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARACTERS_PER_TOKEN = 4
"""The Gemini API guide "Understand and count tokens" (2025): a token is about 4 characters of English."""

ESTIMATE_RANGE = (0.9, 2.0)
"""What an estimate may be off by, as factors. SmolLM2's tokenizer takes 2.1 characters a token on the numbers of
experiments/next_number, 3.5 on Markdown, 3.7 on Python and 4.3 on the questions of banking77 (counted 2026-11-23)."""

CHAT_TOKENS = 31
"""Tokens of the chat format around one example: SmolLM2-135M-Instruct's, system turn included (counted 2026-11-22)."""

_AT_ONCE = 5_000


class TokenCounter(Protocol):
    """Counts the tokens of one pass over examples: prompt and target, chat format included.

    Attributes:
        exact: whether the base model's own tokenizer counts; else it is an estimate.
    """

    @property
    def exact(self) -> bool:
        """Whether the base model's own tokenizer counts."""

    def count(self, example: Example) -> int:
        """Return the tokens of one pass over an example."""

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        """Return the tokens of one pass over each example; much faster than one by one.

        Raises:
            NoTurnsError: as `count_input`.
        """

    def count_input(self, asked: Input, examples: Sequence[Example] = ()) -> int:
        """Return the tokens of the prompt for an input, behind examples as earlier turns.

        Raises:
            NoTurnsError: the chat format has no place for earlier turns or a system message.
        """

    def control_tokens_in(self, text: str) -> list[str]:
        """Return which of the base model's control tokens a text holds, each once; none while they are not known."""


def token_counter(model: BaseModelRef, cache: Path) -> TokenCounter:
    """Return an exact counter if the base model is prepared in the cache and `tokenizers` is installed.

    Raises:
        BaseModelError: the base model cannot be found.
    """
    found = base_model.find(model, cache, ask_hub=False)
    if prepared_model.model_folder(found, cache) is None:
        return EstimatedCounter()
    try:
        import tokenizers
    except ImportError:
        return EstimatedCounter()
    tokenizer = tokenizers.Tokenizer.from_file(str(prepared_model.tokenizer_file(found, cache)))
    return ExactCounter(tokenizer, prepared_model.chat_format(found, cache), prepared_model.earlier_turns(found, cache))


class ExactCounter:
    """Counts with the base model's own tokenizer, as training does: prompt and target apart."""

    exact = True

    def __init__(self, tokenizer: Tokenizer, chat: ChatFormat, turns: EarlierTurns | None = None) -> None:
        from tunerun.engine.chat_encoder import ChatEncoder
        from tunerun.engine.word_lengths import WordLengths

        self._encoder = ChatEncoder(tokenizer, chat, turns)
        self._knows_turns = turns is not None
        is_apart = all(self._encoder.begins_with_control_token(after) for after in (chat.suffix, chat.end))
        self._words = WordLengths(tokenizer, self._encoder.control_tokens_in, is_apart=is_apart)

    def count(self, example: Example) -> int:
        """Return the tokens of one pass over an example."""
        return self.count_all([example])[0]

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        """Return the tokens of one pass over each example."""
        short = [example.text_input for example in examples if not example.is_conversation]
        of_short = iter(self._words.lengths(short, self._encoder.prompts))
        of_long = iter(self._lengths([example.input for example in examples if example.is_conversation]))
        prompts = [next(of_long if example.is_conversation else of_short) for example in examples]
        targets = self._words.lengths([example.output for example in examples], self._encoder.targets)
        return list(map(add, prompts, targets))

    def count_input(self, asked: Input, examples: Sequence[Example] = ()) -> int:
        """Return the tokens of the prompt for an input, behind examples as earlier turns."""
        return self._lengths([behind_examples(asked, examples)])[0]

    def _lengths(self, inputs: Sequence[Input]) -> list[int]:
        if not self._knows_turns:  # of a cache that an earlier version filled: a few tokens too many
            return [sum(self._parts_apart(as_conversation(asked))) for asked in inputs]
        some = (inputs[start : start + _AT_ONCE] for start in range(0, len(inputs), _AT_ONCE))
        return [len(ids) for each in some for ids in self._encoder.prompts(each)]

    def _parts_apart(self, asked: Conversation) -> list[int]:
        """Count a system message and each turn as if it were a prompt of its own."""
        alone = [asked.text_input, *([asked.system] if asked.system else [])]
        turns = [Example(turn.text_input, turn.output) for turn in asked.earlier]
        return [*map(len, self._encoder.prompts(alone)), *self.count_all(turns)]

    def control_tokens_in(self, text: str) -> list[str]:
        """Return which of the base model's control tokens a text holds, each once."""
        return self._encoder.control_tokens_in(text)


class EstimatedCounter:
    """Estimates by length: a token for every 4 characters, and the chat format's 31 for each turn."""

    exact = False

    def count(self, example: Example) -> int:
        """Return about how many tokens one pass over an example takes."""
        return self.count_input(example.input) + _estimate(example.output)

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        """Return about how many tokens one pass over each example takes."""
        return [self.count(example) for example in examples]

    def control_tokens_in(self, text: str) -> list[str]:  # noqa: ARG002 - the Protocol's
        """Return nothing: without its tokenizer a base model's control tokens are not known."""
        return []

    def count_input(self, asked: Input, examples: Sequence[Example] = ()) -> int:
        """Return about how many tokens the prompt for an input has, behind examples as earlier turns."""
        whole = as_conversation(behind_examples(asked, examples))
        return CHAT_TOKENS * (1 + len(whole.earlier)) + sum(map(_estimate, texts_of(whole)))


def _estimate(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
