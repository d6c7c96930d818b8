"""GGUF files: refused models, names of pre-tokenizers, and a round trip of each architecture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from tests.engine import tiny_model
from tests.export.labs import HELD, OPTIONS, trained
from tunerun.engine import export_answers, gguf_export, merging, tuned_model
from tunerun.errors import InputError

INPUTS = [example.text_input for example in HELD]
LLAMA = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "hidden_act": "silu"}
QWEN2 = LLAMA | {"model_type": "qwen2", "num_attention_heads": 4, "hidden_size": 32}
BYTES = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
SHAPE = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("config", "tokenizer", "reason"),
    [
        (LLAMA | {"model_type": "gemma3_text"}, BYTES, "the architecture 'gemma3_text' is not one that tunerun writes"),
        (LLAMA | {"rope_parameters": {"rope_type": "llama3"}}, BYTES, "rope scaling 'llama3' needs factors"),
        (LLAMA | {"attention_bias": True}, BYTES, "a llama with biases"),
        (QWEN2 | {"use_sliding_window": True}, BYTES, "a sliding window"),
        (QWEN2 | {"head_dim": 16}, BYTES, "a qwen2 with head_dim 16"),
        (LLAMA, BYTES | {"model": {"type": "BPE", "byte_fallback": True}}, "a sentencepiece-style BPE"),
        (LLAMA, BYTES | {"model": {"type": "Unigram"}}, "of the type 'Unigram'"),
        (LLAMA, BYTES | {"pre_tokenizer": {"type": "Metaspace"}}, "no known name in llama.cpp"),
        (LLAMA, BYTES | {"normalizer": {"type": "Lowercase"}}, "changes texts by a normalizer (Lowercase)"),
    ],
)
def test_models_without_a_checked_round_trip_are_refused(
    config: dict[str, Any], tokenizer: dict[str, Any], reason: str
) -> None:
    """The error has the reason and what to do instead."""
    with pytest.raises(
        InputError, match=f"--to gguf: .*{re.escape(reason)}.*export it with --to merged, then use llama"
    ):
        gguf_export.check(config, tokenizer)


SPLIT_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES_ALONE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([WORDS], "gpt-2"),
        ([pre_tokenizers.Digits(individual_digits=True), WORDS], "smollm"),
        ([pre_tokenizers.Split(Regex(SPLIT_QWEN2), "isolated"), BYTES_ALONE], "qwen2"),
    ],
)
def test_a_file_names_its_pre_tokenizer(tiny_folder: Path, tmp_path: Path, steps: list[Any], name: str) -> None:
    """The name is llama.cpp's, derived from tokenizer.json."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.backend_tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    base = tiny_model.build(tmp_path / "base", tokenizer=tokenizer)
    _, facts = written(base, tmp_path)
    assert facts["tokenizer.ggml.pre"] == name
    assert facts["tokenizer.ggml.add_bos_token"] is False


def written(base: Path, folder: Path, quantization: str = "f16") -> tuple[Path, dict[str, Any]]:
    """Tune a base model and write the file; what its header says."""
    from tunerun.engine import gguf_header

    tuned = merging.load(trained(base, folder / "runs", folder / "cache"), folder / "cache")
    gguf_export.write(tuned, folder / "model.gguf", quantization, "tiny")
    return folder / "model.gguf", dict(gguf_header.read(folder / "model.gguf").metadata)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_round_trip_gives_equal_answers(tiny_folder: Path, tmp_path: Path, architecture: str, is_tied: bool) -> None:
    """Names, permutation, biases, tied and untied heads: the file read back has the answers of the tuned model."""
    base = tmp_path / "base"
    shape = SHAPE | ({} if is_tied else {"vocab_size": 310})  # Qwen's weights have more rows than its tokenizer tokens
    tiny_model.build_other(base, tiny_folder, architecture, **shape, tie_word_embeddings=is_tied)
    file, facts = written(base, tmp_path)
    folder = tmp_path / "runs" / "tuned_models" / "tiny-a"
    record = tuned_model.read(folder)
    expected = export_answers.of_tuned(folder, record.base_model, tmp_path / "cache", INPUTS, OPTIONS)
    assert export_answers.of_gguf(file, INPUTS, record.chat_format, OPTIONS) == expected
    assert len(set(expected)) > 2, "the comparison has content"
    assert facts["general.architecture"] == architecture
    assert facts["tokenizer.chat_template"].startswith("{%- if messages[0]['role'] == 'system' -%}")


def test_a_merged_folder_has_the_base_models_precision(tiny_folder: Path, tmp_path: Path) -> None:
    """bfloat16 stays bfloat16, in the weights and in config.json."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_folder).to(torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(base)
    tuned = merging.load(trained(base, tmp_path / "runs", tmp_path / "cache"), tmp_path / "cache")
    (tmp_path / "out").mkdir()
    merging.save_merged(tuned, OPTIONS, tmp_path / "out")
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    answers = export_answers.of_merged(tmp_path / "out", INPUTS, tuned.record.chat_format)
    assert len(answers) == len(INPUTS)
