"""Decoding: rows leave and join while others go on, and each has the answer that it has alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine import drawn_adapters, tiny_model
from tunerun.engine import decoding, network
from tunerun.engine.decoding import Decoder
from tunerun.engine.generation import Generation
from tunerun.engine.network import LoadedModel
from tunerun.engine.padded_decoding import PaddedDecoder
from tunerun.job import Answer, BaseModelRef, Example, GenerateOptions, Prompt

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
    """What each prompt is answered alone, by transformers' `generate`; each is asked once."""
    generation = Generation(base)
    generation._decoders = [PaddedDecoder(base)]
    known: dict[Prompt, Any] = {}

    def ask(prompt: Prompt) -> Any:
        if prompt not in known:
            (known[prompt],) = generation.answer([prompt])
        return known[prompt]

    return ask


def is_same(one: Answer, other: Answer) -> bool:
    """Whether answers are equal, but for the rounding of how likely a token was."""
    if len(one.scores) != len(other.scores) or replace(one, scores=()) != replace(other, scores=()):
        return False
    return all(
        a.text == b.text and a.logprob == pytest.approx(b.logprob, abs=1e-4)
        for a, b in zip(one.scores, other.scores, strict=True)
    )


@settings(max_examples=12, deadline=None)
@given(
    asked=st.lists(PROMPTS, min_size=1, max_size=30),
    rows=st.sampled_from([3, 8, 128]),
    tokens=st.sampled_from([20, 1024]),
)
def test_a_mix_is_answered_as_each_prompt_alone(
    base: LoadedModel, tuned: list[str], alone: Any, asked: list[Any], rows: int, tokens: int
) -> None:
    """Whatever is beside it, however few rows there is room for, and which rows leave or join."""
    prompts = [
        Prompt(text, options, None if number is None else tuned[number], examples)
        for text, options, number, examples in asked
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "ROWS", rows)
        patch.setattr(decoding, "PREFILL_TOKENS", tokens)
        generation = Generation(base)
        generation._decoders = [Decoder(base, bytes_per_token=256, cache_bytes=rows * 100 * 256)]
        found = generation.answer(prompts)
    for prompt, answer in zip(prompts, found, strict=True):
        assert isinstance(answer, Answer)
        assert is_same(answer, alone(prompt)), prompt
    assert not base.network._forward_hooks


def test_a_row_that_the_memory_has_no_place_for_waits_and_loses_nothing(
    base: LoadedModel, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long answers outgrow the cache, some are set back, and all are as alone."""
    options = GenerateOptions(max_output_tokens=90, temperature=2.0, seed=3)
    prompts = [Prompt(text, replace(options, seed=seed)) for text in ("1", "8") for seed in range(4)]
    set_back: list[int] = []
    whole = decoding._Course._set_back

    def counted(course: decoding._Course) -> None:
        set_back.append(1)
        whole(course)

    monkeypatch.setattr(decoding._Course, "_set_back", counted)
    generation = Generation(base)
    generation._decoders = [Decoder(base, bytes_per_token=64, cache_bytes=0)]
    assert generation.answer(prompts) == [alone(prompt) for prompt in prompts]
    assert set_back


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
    """Behind a beginning that is longer than the window, and beside other rows, answers are transformers' own."""
    folder = tmp_path / "model"
    tiny_model.build_other(folder, tiny_folder, architecture, **PLAIN[architecture])
    base = network.load(tiny_model.model_of(folder), tmp_path / "cache", network.choose_device("cpu"))
    generation = Generation(base)
    options = GenerateOptions(max_output_tokens=9, temperature=1.0, logprobs=1)
    prompts = [Prompt(text, options, None, examples) for examples in ((), EXAMPLES) for text in TEXTS]
    found = generation.answer(prompts)
    assert isinstance(generation._decoders[0], Decoder)
    whole = Generation(base)
    whole._decoders = [PaddedDecoder(base)]
    for prompt, answer in zip(prompts, found, strict=True):
        (expected,) = whole.answer([prompt])
        assert isinstance(answer, Answer)
        assert isinstance(expected, Answer)
        assert is_same(answer, expected), prompt
