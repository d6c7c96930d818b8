"""Counts the tokens of examples: exactly with the base model's tokenizer, or by an estimate before it is prepared."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunerun.engine import base_model, prepared_model
from tunerun.engine.chat_format import ChatFormat, EarlierTurns
from tunerun.examples import Example, Input, as_conversation, behind_examples, texts_of
from tunerun.job import BaseModelRef

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARACTERS_PER_TOKEN = 4
"""The Gemini API guide "Understand and count tokens" (2025): a token is about 4 characters of English."""

ESTIMATE_RANGE = (0.9, 2.0)
"""The true count lies between these multiples of an estimate. SmolLM2's tokenizer takes 2.1 characters a token on the
numbers of experiments/next_number, 3.5 on Markdown, 3.7 on Python and 4.3 on the questions of banking77 (counted
2026-11-23)."""

CHAT_TOKENS = 31
"""Tokens of the chat format around one example: SmolLM2-135M-Instruct's, system turn included (counted 2026-11-22)."""

_AT_ONCE = 5_000


class TokenCounter(Protocol):
    """Counts the tokens of one pass over examples: prompt and target, chat format included."""

    @property
    def exact(self) -> bool:
        """Whether the base model's own tokenizer counts; otherwise counts are estimates."""

    def count(self, example: Example) -> int:
        """Return the number of tokens of one pass over an example."""

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        """Return the number of tokens of one pass over each example; much faster than one by one.

        Raises:
            NoTurnsError: as `count_input`.
        """

    def count_input(self, model_input: Input, examples: Sequence[Example] = ()) -> int:
        """Return the number of tokens of the prompt for an input.

        Args:
            model_input: a text or a conversation.
            examples: earlier turns to put before those of the input.

        Raises:
            NoTurnsError: the chat format does not support earlier turns or a system message.
        """

    def control_tokens_in(self, text: str) -> list[str]:
        """Return the base model's control tokens that occur in a text, each once; empty while they are unknown."""


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
    return ExactCounter(
        tokenizer, prepared_model.read_chat_format(found, cache), prepared_model.earlier_turns(found, cache)
    )


class ExactCounter:
    """Counts with the base model's own tokenizer; prompt and target are tokenised separately, as in training."""

    exact = True

    def __init__(self, tokenizer: Tokenizer, chat: ChatFormat, turns: EarlierTurns | None = None) -> None:
        from tunerun.engine.chat_encoder import ChatEncoder
        from tunerun.engine.word_lengths import WordLengths

        self._encoder = ChatEncoder(tokenizer, chat, turns)
        self._knows_turns = turns is not None
        is_apart = all(self._encoder.begins_with_control_token(after) for after in (chat.suffix, chat.end))
        self._words = WordLengths(tokenizer, self._encoder.control_tokens_in, is_apart=is_apart)

    def count(self, example: Example) -> int:
        """Return the number of tokens of one pass over an example."""
        return self.count_all([example])[0]

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        """Return the number of tokens of one pass over each example."""
        short = [example.text_input for example in examples if not example.is_conversation]
        of_short = iter(self._words.lengths(short, self._encoder.prompts))
        of_long = iter(self._lengths([example.input for example in examples if example.is_conversation]))
        prompts = [next(of_long if example.is_conversation else of_short) for example in examples]
        targets = self._words.lengths([example.output for example in examples], self._encoder.targets)
        return list(map(add, prompts, targets))

    def count_input(self, model_input: Input, examples: Sequence[Example] = ()) -> int:
        """Return the number of tokens of the prompt for an input after examples as earlier turns."""
        return self._lengths([behind_examples(model_input, examples)])[0]

    def _lengths(self, inputs: Sequence[Input]) -> list[int]:
        """Return the lengths of the prompts of conversations."""
        if not self._knows_turns:
            # An earlier version prepared the model. Each part is counted as a prompt of its own: a few tokens too many.
            counts = []
            for each in map(as_conversation, inputs):
                alone = [each.text_input, *([each.system] if each.system else [])]
                turns = [Example(turn.text_input, turn.output) for turn in each.earlier]
                counts.append(sum(map(len, self._encoder.prompts(alone))) + sum(self.count_all(turns)))
            return counts
        some = (inputs[start : start + _AT_ONCE] for start in range(0, len(inputs), _AT_ONCE))
        return [len(ids) for each in some for ids in self._encoder.prompts(each)]

    def control_tokens_in(self, text: str) -> list[str]:
        """Return the base model's control tokens that occur in a text, each once."""
        return self._encoder.control_tokens_in(text)


class EstimatedCounter:
    """Estimates by length: a token for every 4 characters, and the chat format's 31 for each turn."""

    exact = False

    def count(self, example: Example) -> int:
        """Return the estimated number of tokens of one pass over an example."""
        return self.count_input(example.input) + _estimate(example.output)

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        """Return the estimated number of tokens of one pass over each example."""
        return [self.count(example) for example in examples]

    def control_tokens_in(self, text: str) -> list[str]:  # noqa: ARG002 - the Protocol's
        """Return nothing: without its tokenizer the control tokens of a base model are unknown."""
        return []

    def count_input(self, model_input: Input, examples: Sequence[Example] = ()) -> int:
        """Return the estimated number of tokens of the prompt for an input after examples as earlier turns."""
        whole = as_conversation(behind_examples(model_input, examples))
        return CHAT_TOKENS * (1 + len(whole.earlier)) + sum(map(_estimate, texts_of(whole)))


def _estimate(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
