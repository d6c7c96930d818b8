"""How many tokens long texts have, counted by words: each word is tokenised once, however often it occurs.

Byte-level tokenizers cut a text before every single space between two words, and join nothing across that cut; so a
text has as many tokens as its words have together. 20,000 texts of 1,200 characters are counted in half a second
instead of four (measured 2026-11-26). Where a tokenizer does otherwise, texts are tokenised whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

FEW_TEXTS = 1_000
"""Different texts up to which all are tokenised whole: it takes a tenth of a second."""

_COMPARED = 64
_TEXTS_AT_ONCE = 5_000
_MOST_WORDS = 2_000_000
_BESIDE_SPACE = re.compile(r"\s | \s")
_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")

Whole = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Tokenises texts with what the chat format puts around each."""


class WordLengths:
    """Counts the tokens of texts with one tokenizer.

    Args:
        tokenizer: the base model's.
        control_tokens_in: what a text holds of the base model's control tokens.
        is_apart: whether what follows a text begins with a control token, which no tokenizer joins with a word.
    """

    def __init__(
        self, tokenizer: Tokenizer, control_tokens_in: Callable[[str], Sequence[str]], *, is_apart: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._control_tokens_in = control_tokens_in
        self._is_apart = is_apart and _is_byte_level(json.loads(tokenizer.to_str()))
        self._words: dict[str, int] = {}

    def lengths(self, texts: Sequence[str], whole: Whole) -> list[int]:
        """Return the number of tokens that `whole` gives for each text."""
        different = list(dict.fromkeys(texts))
        if len(different) > FEW_TEXTS and self._is_apart and self._agrees(different, whole):
            counts = self._by_words(different, whole)
        else:
            counts = _by_tokens(different, whole)
        if len(different) == len(texts):
            return counts
        return list(map(dict(zip(different, counts, strict=True)).__getitem__, texts))

    def _agrees(self, texts: Sequence[str], whole: Whole) -> bool:
        """Whether a sample of the texts, the longest among them, has the same count either way."""
        sample = [*texts[:: -(-len(texts) // _COMPARED)], max(texts, key=len)]
        return self._by_words(sample, whole) == _by_tokens(sample, whole)

    def _by_words(self, texts: Sequence[str], whole: Whole) -> list[int]:
        counts: list[int] = []
        heads: dict[str, int] = {}
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[start : start + _TEXTS_AT_ONCE]
            if self._control_tokens_in("\n".join(some)):
                split = [[text] if self._control_tokens_in(text) else _words_of(text) for text in some]
            else:
                split = list(map(_words_of, some))
            # The first word follows the chat format, and is counted with all of it.
            first = [words.pop(0) for words in split]
            new = list({*first} - heads.keys())
            heads.update(zip(new, map(len, whole(new)), strict=True))
            self._learn(set(chain.from_iterable(split)))
            length_of = self._words.__getitem__
            counts += [heads[head] + sum(map(length_of, words)) for head, words in zip(first, split, strict=True)]
        return counts

    def _learn(self, words: set[str]) -> None:
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        new = [word for word in words if word not in self._words]
        encoded = self._tokenizer.encode_batch_fast([f" {word}" for word in new], add_special_tokens=False)
        self._words.update((word, len(encoding.ids)) for word, encoding in zip(new, encoded, strict=True))


def _by_tokens(texts: Sequence[str], whole: Whole) -> list[int]:
    some = (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
    return [len(ids) for each in some for ids in whole(each)]


def _words_of(text: str) -> list[str]:
    """Cut a text at the single spaces between two characters that are not white space."""
    words = text.split(" ")
    # Printable: the only white space is single spaces. It costs a sixth of the pattern, which most texts then skip.
    if "" in words or not (text.isprintable() or _BESIDE_SPACE.search(text) is None):
        return _BETWEEN_WORDS.split(text)
    return words


def _is_byte_level(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer works on bytes, cut up by a pattern of GPT-2's family, and adds nothing before a text."""
    before = tokenizer.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", []) if before.get("type") == "Sequence" else [before]
    levels = [step for step in steps if step.get("type") == "ByteLevel"]
    is_plain = all(not step.get("add_prefix_space") for step in levels)
    return bool(levels) and is_plain and (tokenizer.get("model") or {}).get("type") == "BPE"
