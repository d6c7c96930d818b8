"""Continuous batching: rows leave and join while others continue, and each answer is the same as alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import drawn_adapters, tiny_model
from tunerun.engine import network
from tunerun.engine.batch_limits import BatchLimits
from tunerun.engine.decoding import Decoder, decoder_of
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.engine.padded_decoding import PaddedDecoder
from tunerun.examples import Example
from tunerun.generation import Answer, GenerateOptions, Prompt
from tunerun.job import BaseModelRef

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ADAPTERS = 12
TEXTS = ("1", "twenty two", "8", "ninety nine and some more words, so that lengths differ", "", "one " * 12, "seven")
EXAMPLES = (Example("1", "2"), Example("twenty two", "twenty three"))

ANSWERS = st.builds(
    GenerateOptions,
    max_output_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0.0, 0.0, 1.0]),
    seed=st.integers(0, 3),
    stop_sequences=st.sampled_from([(), ("e",)]),
    logprobs=st.sampled_from([None, None, 2]),
)
PROMPTS = st.tuples(
    st.sampled_from(TEXTS), ANSWERS, st.none() | st.integers(0, ADAPTERS - 1), st.sampled_from([(), EXAMPLES])
)


@pytest.fixture(scope="module")
def tuned(base: LoadedModel, tiny: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tuned")
    return [
        str(drawn_adapters.write(base, tiny, number, folder, rank=1 + number % 5, spread=0.3))
        for number in range(ADAPTERS)
    ]


@pytest.fixture(scope="module")
def alone(base: LoadedModel) -> Any:
    """Return a function that answers a prompt alone, with transformers' `generate`; answers are cached."""
    generation = Generation(base, PaddedDecoder(base))
    answers: dict[Prompt, Any] = {}

    def answer(prompt: Prompt) -> Any:
        if prompt not in answers:
            (answers[prompt],) = generation.answer([prompt])
        return answers[prompt]

    return answer


def is_same(one: Answer, other: Answer) -> bool:
    """Whether answers are equal up to the rounding of log probabilities."""
    if len(one.scores) != len(other.scores) or replace(one, scores=()) != replace(other, scores=()):
        return False
    return all(
        a.text == b.text and a.logprob == pytest.approx(b.logprob, abs=1e-4)
        for a, b in zip(one.scores, other.scores, strict=True)
    )


@settings(max_examples=12, deadline=None)
@given(
    drawn=st.lists(PROMPTS, min_size=1, max_size=30),
    rows=st.sampled_from([3, 8, 128]),
    tokens=st.sampled_from([20, 1024]),
)
def test_answers_of_a_batch_are_those_of_single_prompts(
    base: LoadedModel, tuned: list[str], alone: Any, drawn: list[Any], rows: int, tokens: int
) -> None:
    """Answers do not depend on the other rows, on the size of the batch, and on which rows leave or join."""
    prompts = [
        Prompt(text, options, None if number is None else tuned[number], examples)
        for text, options, number, examples in drawn
    ]
    limits = BatchLimits(rows=rows, prefill_tokens=tokens, cache_bytes=rows * 100 * 256)
    found = Generation(base, Decoder(base, 256, limits)).answer(prompts)
    for prompt, answer in zip(prompts, found, strict=True):
        assert isinstance(answer, Answer)
        assert is_same(answer, alone(prompt)), prompt
    assert not base.network._forward_hooks


def test_a_row_that_does_not_fit_into_memory_waits_and_keeps_its_tokens(base: LoadedModel, alone: Any) -> None:
    """Long answers outgrow the cache, some rows leave the batch and join again, and all answers are as alone."""
    options = GenerateOptions(max_output_tokens=90, temperature=2.0, seed=3)
    prompts = [Prompt(text, replace(options, seed=seed)) for text in ("1", "8") for seed in range(4)]
    expected = [alone(prompt) for prompt in prompts]
    prefills: list[int] = []

    def count(_network: Any, _args: Any, given: dict[str, Any], _output: Any) -> None:
        rows, width = given["input_ids"].shape
        prefills.extend([width] * rows if width > 1 else [])

    hook = base.network.register_forward_hook(count, with_kwargs=True)
    assert Generation(base, Decoder(base, 64, BatchLimits(cache_bytes=0))).answer(prompts) == expected
    hook.remove()
    assert max(prefills) > prefills[0], "a row joined again with the tokens of its answer"


WINDOW = {"sliding_window": 8, "max_position_embeddings": 128, "intermediate_size": 32, "num_attention_heads": 4}
PLAIN: dict[str, dict[str, Any]] = {
    "mistral": WINDOW | {"num_key_value_heads": 2},
    "gemma3_text": WINDOW | {"num_key_value_heads": 2, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"max_position_embeddings": 128, "window_size": 8, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "bloom": {"n_head": 4},
    "mpt": {"n_heads": 4, "d_model": 32, "n_layers": 2, "max_seq_len": 128},
    "opt": {"num_attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 128, "word_embed_proj_dim": 32},
}  # fmt: skip


@pytest.mark.parametrize("architecture", PLAIN)
def test_windows_and_positions_of_other_architectures(architecture: str, tiny_folder: Path, tmp_path: Path) -> None:
    """After a prefix that is longer than the window, and beside other rows, answers are transformers' own."""
    folder = tmp_path / "model"
    tiny_model.build_other(folder, tiny_folder, architecture, **PLAIN[architecture])
    base = network.load(tiny_model.model_of(folder), tmp_path / "cache", network.choose_device("cpu"))
    decoder = decoder_of(base)
    assert decoder is not None
    options = GenerateOptions(max_output_tokens=9, temperature=1.0, logprobs=1)
    prompts = [Prompt(text, options, None, examples) for examples in ((), EXAMPLES) for text in TEXTS]
    found = Generation(base, decoder).answer(prompts)
    whole = Generation(base, PaddedDecoder(base))
    for prompt, answer in zip(prompts, found, strict=True):
        (expected,) = whole.answer([prompt])
        assert isinstance(answer, Answer)
        assert isinstance(expected, Answer)
        assert is_same(answer, expected), prompt
