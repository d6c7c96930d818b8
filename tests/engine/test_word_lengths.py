"""Counting tokens by words gives the same numbers as tokenising whole texts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tunerun.engine.word_lengths import FEW_TEXTS, WordLengths

CONTROL = "<|im_end|>"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""The pattern of cl100k, which Llama 3's and Qwen's tokenizers follow."""

CORPUS = [
    "the word and the other words, don't they'll say 12345 times...",
    "  indented\n\n\tlines  of  code { }",
    "日本 über é",
]

PIECES = st.sampled_from(
    [
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u2028",
        "\x0b",
        "word",
        "the",
        "'s",
        "I'll",
        "12",
        "...",
        "日本",
        "é",
        "😀",
        "_",
        "-",
        CONTROL,
    ]
)
TEXTS = st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=40)


def bpe(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[CONTROL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return tokenizer


def by_words(tokenizer: Tokenizer) -> WordLengths:
    return WordLengths(tokenizer, lambda text: [CONTROL] if CONTROL in text else [], is_apart=True)


TOKENIZERS = {
    "GPT-2's": bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "with digits apart": bpe(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    ),
    "GPT-4's": bpe(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(GPT4), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None)
@given(texts=TEXTS)
def test_counting_by_words_equals_tokenising_whole_texts(name: str, texts: list[str]) -> None:
    """The texts contain any white space, scripts and control tokens."""
    tokenizer = TOKENIZERS[name]

    def whole(some: Sequence[str]) -> list[list[int]]:
        around = [f"{CONTROL}\n{text}{CONTROL}" for text in some]
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(around, add_special_tokens=False)]

    counter = by_words(tokenizer)
    assert counter._is_apart
    assert counter._by_words(texts, whole) == list(map(len, whole(texts)))


@pytest.mark.parametrize("name", ["spaces before", "metaspace", "no control token"])
def test_other_tokenizers_count_whole_texts(name: str) -> None:
    """If a tokenizer joins words or splits otherwise, nothing is counted by words."""
    metaspace = bpe(pre_tokenizers.Metaspace())
    metaspace.normalizer = normalizers.NFC()
    counter = {
        "spaces before": by_words(bpe(pre_tokenizers.ByteLevel(add_prefix_space=True))),
        "metaspace": by_words(metaspace),
        "no control token": WordLengths(TOKENIZERS["GPT-2's"], lambda _: [], is_apart=False),
    }[name]
    texts = [f"word {number}" for number in range(FEW_TEXTS + 1)]
    assert counter.lengths(texts, lambda some: [[0] * len(text) for text in some]) == list(map(len, texts))
    assert not counter._words


def test_a_sample_decides_whether_words_are_counted() -> None:
    """If the counts of whole texts differ, these are used."""
    counter = by_words(TOKENIZERS["GPT-2's"])
    texts = [f"word {number}" for number in range(FEW_TEXTS + 1)]
    assert counter.lengths(texts, lambda some: [[0] * 7 for _ in some]) == [7] * len(texts)


def test_each_text_and_word_is_counted_once() -> None:
    """Equal texts are tokenised once, and so are equal words of many texts."""
    tokenizer = TOKENIZERS["GPT-2's"]
    tokenised: list[str] = []

    def whole(some: Sequence[str]) -> list[list[int]]:
        tokenised.extend(some)
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(some), add_special_tokens=False)]

    texts = [f"the word {number}" for number in range(FEW_TEXTS + 1)]
    by_words(tokenizer).lengths([*texts, *texts], whole)
    assert tokenised.count("the") <= 2  # once for the sample
    tokenised.clear()
    by_words(tokenizer).lengths(["one", "two", "one"] * 50, whole)
    assert tokenised == ["one", "two"]
