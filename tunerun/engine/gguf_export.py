"""Writes a merged model as a GGUF file, with the package gguf alone.

Supports only models whose round trip was checked: the architectures `llama` and `qwen2` with a byte-level BPE
tokenizer. In float32 the file read back by transformers has the same bits as the model; checked 2026-11-25 (llama, tied
and untied heads). llama.cpp itself (xllamacpp 2026.10) answered 24 of 24 rows like SmolLM2-135M tuned on `next_number`,
from the f16 file and its chat template, 22 of 24 from q8_0 (24 by transformers, which computes it in float32), and tiny
models of both architectures like the tuned ones; checked by hand 2026-11-26.
Keys and layout: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunerun.engine.merging import LoadedTunedModel, merge
from tunerun.errors import InputError

QUANTIZATIONS = ("f16", "q8_0")

INSTEAD = "export it with --to merged, then use llama.cpp's convert_hf_to_gguf.py on that folder"

_ARCHITECTURES = ("llama", "qwen2")

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS: Mapping[tuple[str, ...], str] = {
    ("bytes by words",): "gpt-2",
    ("digits", "bytes by words"): "smollm",
    (f"split {_QWEN2}", "bytes"): "qwen2",
    (f"split {_LLAMA3}", "bytes"): "llama-bpe",
}
"""llama.cpp's name of a pre-tokenizer, by its steps in tokenizer.json. llama.cpp has the rules in its code
(src/llama-vocab.cpp, read 2026-11-26); a GGUF file contains only the name."""

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # gguf's TokenType
_FILE_TYPES = {"f16": 1, "q8_0": 7}  # llama.cpp's llama_ftype
_BLOCK = 32  # numbers that share a scale in Q8_0


def check(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Check, before weights are loaded, that a model can be written as a GGUF file.

    Args:
        config: the content of config.json.
        tokenizer: the content of tokenizer.json.

    Raises:
        InputError: it cannot; one line for each reason, with the alternative.
    """
    problems = [*_config_problems(config), *_tokenizer_problems(tokenizer)]
    if problems:
        raise InputError([f"--to gguf: {problem}; {INSTEAD}" for problem in problems])


def _config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        yield f"the architecture {kind!r} is not one that tunerun writes ({', '.join(_ARCHITECTURES)})"
        return
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling != "default":
        yield f"rope scaling {scaling!r} needs factors in the file that tunerun does not write"
    if config.get("hidden_act", "silu") != "silu":
        yield f"the activation {config['hidden_act']!r} is not the one of {kind} in a GGUF file (silu)"
    if config.get("use_sliding_window"):
        yield "a sliding window cannot be stated in a GGUF file of this architecture"
    if kind == "llama" and (config.get("attention_bias") or config.get("mlp_bias")):
        yield "a llama with biases is not read back by transformers"
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    size = config.get("head_dim")
    if kind == "qwen2" and heads and hidden and size not in (None, hidden // heads):
        yield f"a qwen2 with head_dim {size} (hidden_size {hidden}, {heads} heads) is not read back by transformers"


def _tokenizer_problems(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = "a sentencepiece-style BPE" if model.get("byte_fallback") else f"of the type {model.get('type')!r}"
        yield f"its tokenizer is {kind}, not a byte-level BPE"
        return
    if _pre_tokenizer(tokenizer) is None:
        yield "its pre-tokenizer has no known name in llama.cpp (tokenizer.ggml.pre)"
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        yield f"its tokenizer changes texts by a normalizer ({normalizer}), which a GGUF file cannot state"


def _pre_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of a tokenizer's pre-tokenizer; None: unknown."""
    stated = tokenizer.get("pre_tokenizer") or {}
    steps = stated.get("pretokenizers", []) if stated.get("type") == "Sequence" else [stated]
    return _PRE_TOKENIZERS.get(tuple(map(_step, steps)))


def _step(step: Mapping[str, Any]) -> str:
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes by words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return f"split {(step.get('pattern') or {}).get('Regex')}"
    return f"unknown {kind}"


def write(tuned: LoadedTunedModel, file: Path, quantization: str, name: str) -> None:
    """Merge a tuned model and write it as a GGUF file.

    Args:
        tuned: the tuned model with its base model.
        file: to write.
        quantization: one of `QUANTIZATIONS`.
        name: of the model, in the file's metadata.

    Raises:
        InputError: as in `check`.
        OSError: the file cannot be written.
    """
    import gguf

    tokenizer = json.loads(tuned.tokenizer.backend_tokenizer.to_str())
    check(tuned.base.network.config.to_dict(), tokenizer)
    merged = merge(tuned)
    rows = merged.get_input_embeddings().weight.shape[0]
    writer = gguf.GGUFWriter(file, arch=merged.config.model_type)
    try:
        _add_facts(writer, merged.config, quantization, name, rows)
        _add_tokenizer(writer, tuned, tokenizer, rows)
        tensors = list(_tensors(gguf, merged, quantization))
        for key, weight, kind in tensors:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            writer.add_tensor_info(key, weight.shape, weight.dtype, weight.size // block * size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _name, weight, kind in tensors:  # quantised one by one: two copies of a model may not fit into memory
            writer.write_tensor_data(np.ascontiguousarray(gguf.quants.quantize(weight, kind)))
    finally:
        writer.close()


def _add_facts(writer: Any, config: Any, quantization: str, name: str, rows: int) -> None:
    """Add the architecture's metadata under the names that llama.cpp's converter uses."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[quantization])
    writer.add_quantization_version(2)  # of gguf's blocks
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(rows)
    if config.model_type == "llama":
        writer.add_rope_dimension_count(head_size)
        if head_size != config.hidden_size // heads:
            writer.add_key_length(head_size)
            writer.add_value_length(head_size)


def _add_tokenizer(writer: Any, tuned: LoadedTunedModel, tokenizer: Mapping[str, Any], rows: int) -> None:
    """Add the vocabulary with a name for each row of the embedding, the merges, special tokens and chat template."""
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    names = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    names |= {number: token["content"] for number, token in added.items()}
    kinds = [
        _UNUSED if number not in names
        else _NORMAL if number not in added
        else _CONTROL if added[number]["special"] else _USER_DEFINED
        for number in range(rows)
    ]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer) or "")
    writer.add_token_list([names.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]  # texts in older files of the library tokenizers, otherwise pairs
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(tuned.base.stop_ids[0])
    writer.add_pad_token_id(tuned.base.pad_id)
    if tuned.tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tuned.tokenizer.bos_token_id)
    writer.add_add_bos_token(False)  # the chat template writes it if the chat format contains it
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tuned.tokenizer.chat_template)


def _tensors(gguf: Any, merged: Any, quantization: str) -> Iterator[tuple[str, np.ndarray[Any, Any], Any]]:
    """Yield for each tensor its name in the file, its values in float32, and the type to store them as."""
    config = merged.config
    architecture = gguf.MODEL_ARCH.LLAMA if config.model_type == "llama" else gguf.MODEL_ARCH.QWEN2
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    quantised = gguf.GGMLQuantizationType[quantization.upper()]
    for key, tensor in merged.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue  # the embedding is read in its place
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise InputError(f"--to gguf: the weight {key} has no name in a GGUF file; {INSTEAD}")
        weight = tensor.detach().float().numpy()
        if config.model_type == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp's rotary embedding pairs neighbouring rows, transformers' the two halves of a head.
            is_query = key.endswith("q_proj.weight")
            heads = config.num_attention_heads if is_query else config.num_key_value_heads
            pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
            weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        kind = quantised if weight.shape[-1] % _BLOCK == 0 else gguf.GGMLQuantizationType.F16
        yield name, weight, kind if weight.ndim > 1 else gguf.GGMLQuantizationType.F32
