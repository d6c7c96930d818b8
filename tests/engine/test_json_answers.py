"""Answers that satisfy a JSON schema, and the log probabilities of their tokens."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import tiny_model
from tunerun.engine import json_grammar, network
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.errors import InputError
from tunerun.generation import Answer, AnswerPart, GenerateOptions, Prompt

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"label": {"enum": ["seven", "eight"]}, "sure": {"type": "boolean"}},
        "required": ["label", "sure"],
        "additionalProperties": False,
    }
)
GREEDY = GenerateOptions(max_output_tokens=60, json_schema=SCHEMA)
SAMPLED = replace(GREEDY, temperature=2.0, seed=3)


def answered(base: LoadedModel, *prompts: Prompt, parts: list[str] | None = None) -> list[Answer]:
    def on_part(position: int, part: AnswerPart) -> None:
        if parts is not None:
            parts[position] += part.text

    answers = Generation(base).answer(prompts, on_part, all_or_none=True)
    return [one for one in answers if isinstance(one, Answer)]


def is_kept(text: str) -> bool:
    value = json.loads(text)
    return value.keys() == {"label", "sure"} and value["label"] in ("seven", "eight") and " " not in text


def test_every_answer_satisfies_its_schema_beside_answers_that_have_none(base: LoadedModel) -> None:
    """Greedy or sampled, alone or in a batch, each answer satisfies its own schema, and others are unchanged."""
    free = Prompt("twenty two", GenerateOptions(max_output_tokens=12, temperature=1.0, seed=1))
    parts = [""] * 4
    answers = answered(base, free, Prompt("8", GREEDY), Prompt("8", SAMPLED), Prompt("1", GREEDY), parts=parts)
    assert [is_kept(one.text) for one in answers[1:]] == [True] * 3
    assert not any(one.is_cut for one in answers[1:])
    assert parts == [one.text for one in answers]
    assert answers[:1] == answered(base, free)
    assert answers[1:2] == answered(base, Prompt("8", GREEDY))


def test_a_schema_with_one_valid_answer(base: LoadedModel) -> None:
    """A constant is the answer whatever the model prefers; stop sequences and limits still apply."""
    options = replace(GREEDY, json_schema='{"const": {"a": "twenty three"}}')
    ended, stopped, cut = answered(
        base,
        Prompt("1", options),
        Prompt("1", replace(options, stop_sequences=("three",))),
        Prompt("1", replace(options, max_output_tokens=2)),
    )
    assert ended.text == '{"a":"twenty three"}'
    assert not ended.is_cut
    assert stopped.text == '{"a":"twenty '
    assert not stopped.is_cut
    assert ended.text.startswith(cut.text)
    assert cut.is_cut


@pytest.mark.parametrize("kind", [*tiny_model.TOKENIZERS])
def test_every_kind_of_tokenizer_is_constrained_or_refused(kind: str, tmp_path: Path, engine_cache: Path) -> None:
    """Tokens beyond the vocabulary are never chosen; a tokenizer that llguidance cannot read is named."""
    folder = tiny_model.build(tmp_path / "model", tokenizer=tiny_model.TOKENIZERS[kind]())
    base = network.load(tiny_model.model_of(folder), engine_cache, torch.device("cpu"))
    base.network.resize_token_embeddings(base.network.config.vocab_size + 7, mean_resizing=False)
    (answer,) = Generation(base).answer([Prompt("8", SAMPLED)])
    if kind == "unigram":
        assert "llguidance cannot read its tokenizer" in str(answer)
    else:
        assert isinstance(answer, Answer)
        assert is_kept(answer.text)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ('{"type": "object", "properties": {"a": {"not": {}}}}', r'Unimplemented keys: \["not"\]'),
        ('{"type": "strin"}', "Invalid type: strin"),
        ('{"$ref": "file:///etc/passwd"}', "Default retriever does not fetch resources"),
        ("[]", "Expecting object"),
        (f'{{"title": "{"a" * 130_000}"}}', "has 130,013 characters, the limit is 40,000"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused(base: LoadedModel, schema: str, words: str) -> None:
    """The reason is reported for that row alone; no reference in the schema is fetched or read."""
    with pytest.raises(InputError, match=words):
        json_grammar.check(schema)
    json_grammar.check(SCHEMA)
    with pytest.raises(InputError, match=words):
        answered(base, Prompt("1", replace(GREEDY, json_schema=schema)))


def test_scores_are_the_models_own_probabilities(base: LoadedModel) -> None:
    """Log probabilities are the network's, before temperature, with those of the likeliest tokens."""
    prompt = Prompt("twenty two", GenerateOptions(max_output_tokens=8, temperature=1.5, seed=5, logprobs=3))
    parts: list[AnswerPart] = []
    (answer,) = Generation(base).answer([prompt], lambda _position, part: parts.append(part))
    assert isinstance(answer, Answer)
    assert answer.text == answered(base, replace(prompt, options=replace(prompt.options, logprobs=None)))[0].text
    assert len(answer.scores) == answer.tokens
    assert bytes(value for one in answer.scores for value in one.bytes).decode() == answer.text
    sent = [score for part in parts for score in part.scores]
    assert sent == list(answer.scores[: len(sent)])
    assert "".join(part.text for part in parts) == answer.text
    first = answer.scores[0]
    assert [one.logprob for one in first.likeliest] == sorted((one.logprob for one in first.likeliest), reverse=True)
    assert first.logprob == pytest.approx(_logprob(base, prompt.text_input, first.text), abs=1e-4)


def _logprob(base: LoadedModel, text_input: str, token: str) -> float:
    """What the network alone says of the first token of an answer."""
    from tunerun.engine.chat_encoder import ChatEncoder

    encoder = ChatEncoder(base.tokenizer, base.chat)
    (ids,) = encoder.prompts([text_input])
    logits: Any = base.network(input_ids=torch.tensor([ids])).logits[0, -1]
    number = next(n for n in range(len(logits)) if encoder.score(n, 0.0).text == token)
    logprob = float(logits.float().log_softmax(-1)[number])
    assert math.isfinite(logprob)
    return logprob
