"""Token counts: exact once the model is prepared, an estimate before."""

from __future__ import annotations

from pathlib import Path

from tests.engine.tiny_model import EXAMPLES
from tunerun.engine import encoding, prepared_model, token_counter
from tunerun.engine.network import LoadedModel
from tunerun.examples import Example, Turn
from tunerun.job import BaseModelRef


def test_conversations_are_counted_whole(base: LoadedModel) -> None:
    """System message, earlier turns and the last turn count as in training, also beside examples of one turn."""
    rows = [*EXAMPLES[:2], Example("3", "4", "Count.", (Turn("1", "2"),)), Example("5", "6", "Count."), EXAMPLES[2]]
    counter = token_counter.ExactCounter(base.tokenizer, base.chat, base.turns)
    encoded = encoding.encode_examples(base.tokenizer, base.chat, rows, base.turns)
    assert counter.count_all(rows) == [len(one) for one in encoded]
    assert counter.count_input(rows[2].input) == len(encoded[2].prompt)
    of_an_old_cache = token_counter.ExactCounter(base.tokenizer, base.chat)
    assert all(more >= one for more, one in zip(of_an_old_cache.count_all(rows), counter.count_all(rows), strict=True))
    assert token_counter.EstimatedCounter().count(rows[2]) > token_counter.EstimatedCounter().count(rows[0])


def test_estimate_until_prepared(tiny: BaseModelRef, tmp_path: Path) -> None:
    """Before the model is prepared, counts are estimates: 4 characters a token and 31 tokens of the chat format."""
    counter = token_counter.token_counter(tiny, tmp_path)
    assert not counter.exact
    assert counter.count(Example("12345", "1")) == 31 + 2 + 1
    assert counter.count_input("") == 31
    assert counter.count_all([Example("", ""), Example("1234", "")]) == [31, 32]


def test_exact_once_prepared(tiny: BaseModelRef, cache: Path, base: LoadedModel) -> None:
    """A prepared model's counts are the lengths of training."""
    prepared_model.prepare(tiny, cache)
    counter = token_counter.token_counter(tiny, cache)
    encoded = encoding.encode_examples(base.tokenizer, base.chat, EXAMPLES)
    assert counter.exact
    assert counter.count_all(EXAMPLES) == [len(one) for one in encoded]
    assert counter.count(EXAMPLES[2]) == len(encoded[2])
    assert counter.count_input(EXAMPLES[2].text_input) == len(encoded[2].prompt)
    assert counter.count_all([]) == []
