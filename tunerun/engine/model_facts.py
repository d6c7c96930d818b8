"""Reads from a base model's files what `plan` needs: context length, end token, size, and why it cannot be tuned.

Reads JSON, the headers of safetensors files and of GGUF files, without torch and transformers, so that `plan` refuses
what `run` would refuse. What only transformers can tell (whether it has the architecture, whether each shape fits) is
checked when the model is prepared.
"""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.engine import chat_template, gguf_header, model_shape, target_modules
from tunerun.engine.model_shape import LAYER_COUNTS, ModelShape, Tensor, first_count, layer_count, text_config

_LFS = b"version https://git-lfs"
"""The beginning of the file that `git clone` leaves in place of a large file when Git LFS is not installed."""

_POINTER = "is a Git LFS pointer, not the file itself; fetch the files with `git lfs pull`"
_UNQUANTISED = "tuning needs the unquantised model, or a GGUF file, which is converted"
_NOT_CAUSAL = "tunerun tunes causal language models only; choose one"

_SMALL_BYTES = 1 << 20
"""The largest JSON file that `plan` parses: configs have some kB, tokenizers some MB."""

_JSON_FILES = frozenset(
    {"config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}
)
_LONGEST_HEADER = 100_000_000  # of a safetensors file: the format's own limit

# The class names of transformers that end in a causal language model's head (5.23).
_CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel|WithLMHead|ForConditionalGeneration|BertGenerationDecoder)$")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|embeddings)\.weight$")
_GGUF_LAYER = re.compile(r"^blk\.(\d+)\.")

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""The names of the number of experts in config.json, by architecture (transformers 5.23)."""

_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length")

# Architectures whose tokens attend to later ones too unless config.json sets is_decoder (transformers 5.23).
_BOTH_WAYS = frozenset(
    {
        "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
        "roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip

_QUANTISED = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"})

_GGUF_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}
"""Placeholders for the two tokens that chat templates write: a GGUF file has only their numbers."""


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a base model that its files state.

    Attributes:
        context_tokens: the longest sequence that it was made for; None: not stated.
        has_end_token: whether a file names the token that ends a text, or a chat template ends each turn.
        has_experts: whether it is a mixture of experts; no adapter changes the experts.
        problems: why it cannot be tuned, as clauses that name the file and what is wrong with it.
        shape: its size; None: its config has unknown fields.
        layers: the names, in transformers, of the layers that may have an adapter; None: unknown.
    """

    context_tokens: int | None = None
    has_end_token: bool = True
    has_experts: bool = False
    problems: tuple[str, ...] = ()
    shape: ModelShape | None = None
    layers: tuple[str, ...] | None = None


def of_folder(folder: Path) -> ModelFacts:
    """Return the facts of a folder in transformers' format; they are cached until a file in it changes."""
    return _of_folder(folder, _stamp(folder.iterdir()))


def of_gguf(file: Path) -> ModelFacts:
    """Return the facts of a GGUF file; they are cached until the file changes."""
    return _of_gguf(file, _stamp([file]))


def stated_license(path: Path) -> str | None:
    """Return the licence that a GGUF file, or a folder's model card or config.json, states; None: it states none."""
    if path.is_file():
        stated = gguf_header.read(path).metadata.get("general.license")
        return stated if isinstance(stated, str) and stated else None

    # The hub takes a model's licence from the YAML header of its card, so the card counts before config.json.
    try:
        with (path / "README.md").open(encoding="utf-8", errors="replace") as card:
            header = re.match(r"---\n(.*?)\n---", card.read(_SMALL_BYTES), re.DOTALL)
    except OSError:
        header = None
    if header and (line := re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", header[1], re.MULTILINE)):
        return line[1]
    try:
        stated = _json(path / "config.json").get("license")
    except ValueError:
        return None
    return stated if isinstance(stated, str) and stated else None


def gguf_file_type(file: Path) -> int:
    """Return the type of most tensors of a GGUF file, by its number in llama.cpp (`llama_ftype`); -1: not stated."""
    stated = gguf_header.read(file).metadata.get("general.file_type")
    return stated if isinstance(stated, int) else -1


def numbers_by_type(folder: Path) -> dict[str, int]:
    """Return how many parameters of a folder's weights are stored in each type, such as `BF16`.

    Raises:
        ValueError: a file is not a complete safetensors file.
    """
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for kind, shape in _tensors(file).values():
            counts[kind] = counts.get(kind, 0) + math.prod(shape)
    return counts


def missing_parts(folder: Path) -> list[str]:
    """Return what a folder lacks to be a base model in transformers' format: kinds of files, or shards by name."""
    parts = {
        "config.json": (folder / "config.json").is_file(),
        "*.safetensors": any(folder.glob("*.safetensors")),
        "tokenizer": any(folder.glob("tokenizer*")) or any(folder.glob("vocab.*")),
    }
    missing = [name for name, is_there in parts.items() if not is_there]
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        try:
            shards = {str(shard) for shard in _json(index)["weight_map"].values()}
        except (KeyError, AttributeError, ValueError):
            return [*missing, f"readable {index.name}"]
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    return missing


def _stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Return a value that changes when a file is added, removed or changed."""
    # With the inode: a file that was copied with its times and renamed into place can have the size and the time of the
    # old one.
    states = ((file.name, file.stat()) for file in sorted(files) if file.is_file())
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states)


@functools.lru_cache(maxsize=64)
def _of_folder(folder: Path, _stamp: object) -> ModelFacts:
    try:
        config = _json(folder / "config.json")
    except ValueError as error:
        return ModelFacts(problems=(f"config.json {error}",))
    problems: list[str] = []
    text = text_config(config)
    tensors: dict[str, Tensor] = {}
    for file in sorted(file for file in folder.glob("*.json") if file.name in _JSON_FILES):
        try:
            # A large file (a tokenizer of some MB) would take too long; the library `tokenizers` reads it later.
            if file.stat().st_size <= _SMALL_BYTES:
                _json(file)
        except ValueError as error:
            problems.append(f"{file.name} {error}")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= _tensors(file)
        except ValueError as error:
            problems.append(f"{file.name} {error}")
    problems += _config_problems(folder, config, text)
    if not problems:  # else a damaged file would be reported a second time, as missing layers
        problems += _weight_problems(text, tensors)
    try:
        chat_template.check_folder(folder)
    except chat_template.UnusableTemplateError as error:
        problems.append(str(error))
    has_experts = first_count(text, EXPERT_COUNTS) is not None
    return ModelFacts(
        context_tokens=first_count(text, _CONTEXTS),
        has_end_token=_has_end_token(folder, config),
        has_experts=has_experts,
        problems=tuple(problems),
        shape=model_shape.of_config(config, tensors),
        layers=None if has_experts else target_modules.of_tensors(tensors),
    )


def _json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file does not contain one; the message is a clause about the file.
    """
    content = file.read_bytes()
    if content.startswith(_LFS):
        raise ValueError(_POINTER)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object; download it again")
    return value


def _tensors(file: Path) -> dict[str, Tensor]:
    """Read the type and shape of each tensor from the header of a safetensors file.

    Raises:
        ValueError: the file is not a complete safetensors file; the message is a clause about the file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        beginning = stream.read(len(_LFS))
        if beginning == _LFS:
            raise ValueError(_POINTER)
        stream.seek(0)
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LONGEST_HEADER + 1
        if length > _LONGEST_HEADER or 8 + length > size:
            raise ValueError("is not a safetensors file, or is cut off; download it again")
        try:
            header = json.loads(stream.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            needed = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            shapes = {name: (str(entry["dtype"]), list(entry["shape"])) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError("has a damaged header; download it again") from error
    # The data follows the header without gaps, so the last offset is the end of the file. An interrupted download has
    # the whole header and too few bytes.
    if size != needed:
        raise ValueError(f"has {size:,} bytes, but its header describes {needed:,}: it is cut off or damaged; "
                         "download it again")  # fmt: skip
    return shapes


def _config_problems(folder: Path, config: Mapping[str, Any], text: Mapping[str, Any]) -> Iterator[str]:
    if (folder / "adapter_config.json").is_file():
        yield (
            "adapter_config.json makes it an adapter of another base model; merge the two first (PEFT's "
            "merge_and_unload), or name that base model"
        )
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised:
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        yield (f"config.json states that its weights are quantised{f' ({method})' if method else ''}; {_UNQUANTISED}")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        yield "config.json does not state model_type; use the config.json that belongs to the weights"
        return
    named = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        yield f"config.json describes an encoder with a decoder ({kind}); {_NOT_CAUSAL}"
    elif named and not any(_CAUSAL.search(name) for name in named):
        yield f"config.json names the architecture {', '.join(named)}; {_NOT_CAUSAL}"
    elif kind in _BOTH_WAYS and not config.get("is_decoder"):
        yield f"config.json describes an encoder ({kind}), whose tokens attend to later ones; {_NOT_CAUSAL}"
    # torch's Embedding asserts that its padding index is in the vocabulary, so the model could not be made.
    vocabulary, pad = first_count(text, ("vocab_size",)), text.get("pad_token_id")
    if vocabulary is not None and isinstance(pad, int) and pad >= vocabulary:
        yield (
            f"config.json states pad_token_id {pad:,}, which is outside its vocabulary of {vocabulary:,} tokens; set "
            "it to null or to a token"
        )


def _weight_problems(text: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield contradictions between the weights and config.json, as far as the tensors' names show them."""
    quantised = [name for name, (kind, _) in tensors.items() if name.endswith("weight") and kind in _QUANTISED]
    if quantised:
        yield f"{quantised[0]} is stored as {tensors[quantised[0]][0]}, so the weights are quantised; {_UNQUANTISED}"
    layers, stated = layer_count(tensors), first_count(text, LAYER_COUNTS)
    if stated is not None and layers is not None and layers < stated:
        yield _too_few_layers(stated, layers)
    vocabulary = first_count(text, ("vocab_size",))
    # Fewer only: many models have more rows than tokens, padded to a multiple of 64 or so.
    rows = next((shape[0] for name, (_, shape) in tensors.items() if _EMBEDDING.search(name) and len(shape) == 2), None)
    if vocabulary is not None and rows is not None and rows < vocabulary:
        yield (
            f"config.json states vocab_size {vocabulary:,}, but the weights have {rows:,} tokens; use the config.json "
            "that belongs to the weights"
        )


def _too_few_layers(stated: int, layers: int) -> str:
    return (
        f"its config states {stated} layers, but the weights have {layers}; a part of the weights is missing, or the "
        "config belongs to another model"
    )


def _has_end_token(folder: Path, config: Mapping[str, Any]) -> bool:
    # A chat template counts: it ends each turn with a token of its own, which training teaches.
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    tokens = {"config.json": "eos_token_id", "generation_config.json": "eos_token_id"} | dict.fromkeys(
        ("tokenizer_config.json", "special_tokens_map.json"), "eos_token"
    )
    for name, key in tokens.items():
        try:
            stated = config if name == "config.json" else _json(folder / name)
        except (OSError, ValueError):
            continue
        if stated.get(key) is not None or stated.get("chat_template"):
            return True
    return False


@functools.lru_cache(maxsize=64)
def _of_gguf(file: Path, _stamp: object) -> ModelFacts:
    with file.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            return ModelFacts(problems=(f"{file.name} {_POINTER}",))
    try:
        header = gguf_header.read(file)
    except gguf_header.DamagedGgufError as error:
        return ModelFacts(problems=(f"{file.name} is not a readable GGUF file: {error}",))
    context = header.of_architecture("context_length")
    names = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "intermediate_size": "feed_forward_length",
        "vocab_size": "vocab_size",
    }
    config = {name: header.of_architecture(key) for name, key in names.items()}
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    return ModelFacts(
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        has_end_token="tokenizer.ggml.eos_token_id" in header.metadata or "tokenizer.chat_template" in header.metadata,
        has_experts=bool(header.of_architecture("expert_count")),
        problems=tuple(_gguf_problems(file, header)),
        shape=model_shape.of_config(config),
        layers=target_modules.of_gguf(header.metadata.get("general.architecture"), header.tensors),
    )


def _gguf_problems(file: Path, header: gguf_header.GgufHeader) -> Iterator[str]:
    size, parts = file.stat().st_size, header.metadata.get("split.count", 1)
    if parts > 1:
        yield f"{file.name} is one of {parts} parts; join them with llama.cpp's `llama-gguf-split --merge`"
    elif size < header.byte_count:
        yield f"{file.name} has {size:,} bytes, but needs {header.byte_count:,}: it is cut off; download it again"
    try:
        chat_template.check(chat_template.default_of(header.metadata.get("tokenizer.chat_template")), _GGUF_TOKENS)
    except chat_template.UnusableTemplateError as error:
        yield str(error)
    if header.of_architecture("attention.causal") is False:
        yield f"{file.name} contains an encoder, whose tokens attend to later ones; {_NOT_CAUSAL}"
    layers, stated = layer_count(header.tensors, _GGUF_LAYER), header.of_architecture("block_count")
    # The first of several parts states all layers and has some of them.
    if parts == 1 and isinstance(stated, int) and (layers or 0) < stated:
        yield _too_few_layers(stated, layers or 0)
