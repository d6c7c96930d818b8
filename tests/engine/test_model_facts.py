"""What is refused before anything is loaded, from the files alone: as `plan` does."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine import tiny_model
from tunerun.engine import base_model, gguf_header, model_facts
from tunerun.errors import BaseModelError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"


def configured(**changes: Any) -> Callable[[Path], None]:
    """Return a change of config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


def written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text(content))


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def sharded(folder: Path) -> None:
    """Name two files of weights, one of which is not there."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def integers(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights = {name: weight.to(torch.int8) for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def void(_: object) -> None:
    """Make an expression a statement."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (configured(num_hidden_layers=3), r"its config states 3 layers, but the weights have 2; a part of the weights"),
        (
            configured(vocab_size=400),
            r"states vocab_size 400, but the weights have \d+ tokens; use the config\.json that",
        ),
        (configured(pad_token_id=5000), r"pad_token_id 5,000, which is outside its vocabulary .*; set it to null"),
        (configured(model_type=None), r"config\.json does not state model_type; use the config\.json"),
        (configured(quantization_config={"quant_method": "gptq"}), r"are quantised \(gptq\); tuning needs the unquant"),
        (integers, r"lm_head\.weight is stored as I8, so the weights are quantised; tuning needs"),
        (
            configured(architectures=["BertForMaskedLM"]),
            r"names the architecture BertForMaskedLM; tunerun tunes causal",
        ),
        (
            configured(architectures=["LlamaForSequenceClassification"]),
            r"LlamaForSequenceClassification; tunerun tunes",
        ),
        (
            configured(model_type="roberta", architectures=[]),
            r"describes an encoder \(roberta\), whose tokens attend",
        ),
        (
            configured(model_type="t5", is_encoder_decoder=True),
            r"an encoder with a decoder \(t5\); tunerun tunes causal",
        ),
        (written("adapter_config.json", "{}"), r"makes it an adapter of another base model; merge the two first"),
        (written("config.json", '{"a":'), r"config\.json is not valid JSON \(.*\); download it again"),
        (written("config.json", "[]"), r"config\.json is not a JSON object; download it again"),
        (written("tokenizer.json", "{"), r"tokenizer\.json is not valid JSON"),
        (written("config.json", POINTER), r"config\.json is a Git LFS pointer, not the file itself; .*`git lfs pull`"),
        (written("model.safetensors", POINTER), r"model\.safetensors is a Git LFS pointer"),
        (
            written("model.safetensors", ""),
            r"model\.safetensors is not a safetensors file, or is cut off; download it again",
        ),
        (cut, r"model\.safetensors has [\d,]+ bytes, but its header describes [\d,]+: it is cut off or damaged"),
        (sharded, r"has no model-00002-of-00002\.safetensors; a base model needs"),
    ],
)
def test_folder_that_cannot_be_tuned(
    change: Callable[[Path], None], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """A damaged, quantised, encoding or incomplete folder is refused in one sentence that names the file."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    change(folder)
    with pytest.raises(BaseModelError, match=message) as refused:
        base_model.find(tiny_model.model_of(folder), tmp_path / "cache")
    assert str(refused.value).count("\n") == 0


def test_all_problems_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    """A folder with two problems is refused with both, one line each."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    configured(pad_token_id=5000, quantization_config={})(folder)
    configured(quantization_config={"quant_method": "awq"})(folder)
    with pytest.raises(BaseModelError, match="awq") as refused:
        base_model.find(tiny_model.model_of(folder), tmp_path / "cache")
    assert len(refused.value.problems) == 2


def test_facts_of_a_folder(tiny_folder: Path, tmp_path: Path) -> None:
    """Context length and end token are read from a folder, and again after a file has changed."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    facts = model_facts.of_folder(folder)
    assert replace(facts, shape=None, layers=None) == model_facts.ModelFacts(
        tiny_model.CONTEXT_TOKENS, has_end_token=True
    )
    configured(max_position_embeddings=None, n_positions=77, eos_token_id=None)(folder)
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    assert model_facts.of_folder(folder) == replace(facts, context_tokens=77, has_end_token=False)


def gguf(metadata: dict[str, int | str | bool | list[str]], tensors: list[tuple[str, int]], data: int) -> bytes:
    """Return a GGUF file with float32 tensors of so many elements, one after another, and so many bytes of data."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        content += text(key)
        if isinstance(value, str):
            content += struct.pack("<I", 8) + text(value)
        elif isinstance(value, bool):
            content += struct.pack("<I?", 7, value)
        elif isinstance(value, int):
            content += struct.pack("<II", 4, value)
        else:
            content += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    offset = 0
    for name, elements in tensors:
        content += text(name) + struct.pack("<IQIQ", 1, elements, 0, offset)
        offset += elements * 4
    return content + bytes(-len(content) % 32) + bytes(data)


LLAMA: dict[str, int | str | bool | list[str]] = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["a", "b"],
    "llama.block_count": 2,
    "llama.context_length": 512,
    "tokenizer.ggml.eos_token_id": 1,
}
TENSORS = [("blk.0.a.weight", 8), ("blk.1.a.weight", 8)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf(LLAMA, TENSORS, 32), r"x\.gguf has [\d,]+ bytes, but needs [\d,]+: it is cut off; download it again"),
        (gguf(LLAMA, TENSORS[:1], 64), r"its config states 2 layers, but the weights have 1"),
        (gguf(LLAMA, TENSORS, 64)[:90], r"is not a readable GGUF file: its header is cut off or damaged"),
        (gguf(LLAMA | {"split.count": 3}, TENSORS, 64), r"is one of 3 parts; join them with llama\.cpp's"),
        (gguf(LLAMA | {"llama.attention.causal": False}, TENSORS, 64), r"contains an encoder, whose tokens attend"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(99), r"is of GGUF version 1; allowed are 2 and 3"),
        (b"PK\3\4", r"it does not begin with 'GGUF'"),
        (POINTER.encode(), r"x\.gguf is a Git LFS pointer"),
    ],
)
def test_gguf_that_cannot_be_tuned(content: bytes, message: str, tmp_path: Path) -> None:
    """A GGUF file that is cut off, split, an encoder, or not GGUF at all is refused by its header."""
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(BaseModelError, match=message):
        base_model.find(tiny_model.model_of(tmp_path / "x.gguf"), tmp_path / "cache")


def test_header_agrees_with_the_package_gguf(smollm2: Any, tmp_path: Path) -> None:
    """The header of a real model has the metadata that the package gguf reads, and describes every byte of the file."""
    found = base_model.find(smollm2, tmp_path)
    assert found.path is not None
    header = gguf_header.read(found.path)
    assert header.of_architecture("context_length") == 8192
    assert header.of_architecture("block_count") == 30
    assert len(header.tensors) == 272
    assert header.byte_count == found.path.stat().st_size
    assert len(found.facts.layers or ()) == 7 * 30
    assert replace(found.facts, shape=None, layers=None) == model_facts.ModelFacts(8192, has_end_token=True)
    assert found.facts.shape is not None
    assert (found.facts.shape.layers, found.facts.shape.width, found.facts.shape.vocabulary) == (30, 576, 49152)
