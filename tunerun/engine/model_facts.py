"""What the files of a base model say of it, read by hand: its context, its end token, and why it cannot be tuned.

Light, so that `plan` refuses what `run` would: JSON, the headers of safetensors files, the header of a GGUF file.
What only transformers knows (an architecture, a shape that does not fit) is found when the model is prepared.
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
from types import MappingProxyType
from typing import Any

from tunerun.engine import chat_template, gguf_header, target_modules
from tunerun.engine.target_modules import OTHER_SENSES

_LFS = b"version https://git-lfs"
_SMALL_BYTES = 1 << 20
_OBJECTS = frozenset(
    {"config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}
)
_LONGEST_HEADER = 100_000_000  # of a safetensors file: the format's own limit

_CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel|WithLMHead|ForConditionalGeneration|BertGenerationDecoder)$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|embeddings)\.weight$")
_GGUF_LAYER = re.compile(r"^blk\.(\d+)\.")

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What architectures call the number of their experts in config.json (transformers 5.23)."""

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_INNER_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length")

# Architectures of transformers that look both ways unless config.json sets is_decoder (transformers 5.23).
_BOTH_WAYS = frozenset(
    {
        "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
        "roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip


_QUANTISED = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"})

_GGUF_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}
"""Placeholders for the two that templates write; a GGUF file names them by number."""

_Tensor = tuple[str, list[int]]
"""The type and the shape of a tensor."""


@dataclass(frozen=True)
class ModelShape:
    """How large a base model is, as far as its memory depends on it.

    Attributes:
        parameters: all of its numbers, those that two layers share once.
        linear_parameters: those of the linear layers that an adapter changes.
        adapter_width: the inputs and outputs of these layers, added up: an adapter has rank times as many numbers.
        width: of the residual stream. inner: of the MLP between its two layers. attention: all heads together.
        vocabulary: tokens that the output layer chooses from.
    """

    parameters: int
    linear_parameters: int
    adapter_width: int
    layers: int
    width: int
    inner: int
    attention: int
    vocabulary: int


@dataclass(frozen=True)
class ModelFacts:
    """What a base model's files say of it.

    Attributes:
        context_tokens: the longest sequence it was made for; None: it states none.
        has_end_token: whether some file names the token that ends a text, or a chat template that ends a turn.
        has_experts: whether parts of it see only some tokens each, which no adapter changes.
        problems: why it cannot be tuned, as clauses that name the file and what is wrong with it.
        shape: how large it is; None: its files do not say it in a way that is known.
        layers: the names, in transformers, of the layers that may have an adapter; None: its files do not say.
    """

    context_tokens: int | None = None
    has_end_token: bool = True
    has_experts: bool = False
    problems: tuple[str, ...] = ()
    shape: ModelShape | None = None
    layers: tuple[str, ...] | None = None


def of_folder(folder: Path) -> ModelFacts:
    """Return what a folder in transformers' format says."""
    return _of_folder(folder, _stamp(folder.iterdir()))


def of_gguf(file: Path) -> ModelFacts:
    """Return what a GGUF file says."""
    return _of_gguf(file, _stamp([file]))


def stated_license(path: Path) -> str | None:
    """Return the licence that a GGUF file, or a folder's model card or config.json, states; None: it states none."""
    if path.is_file():
        stated = gguf_header.read(path).metadata.get("general.license")
    else:
        stated = _license_of_card(path / "README.md") or _license_of_config(path / "config.json")
    return stated if isinstance(stated, str) and stated else None


def _license_of_card(card: Path) -> str | None:
    """Return `license` of the YAML before a model card's text, as the hub has it."""
    try:
        with card.open(encoding="utf-8", errors="replace") as content:
            start = content.read(_SMALL_BYTES)
    except OSError:
        return None
    header = re.match(r"---\n(.*?)\n---", start, re.DOTALL)
    stated = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return stated[1] if stated else None


def _license_of_config(file: Path) -> Any:
    try:
        return _json(file).get("license")
    except ValueError:
        return None


def gguf_file_type(file: Path) -> int:
    """Return what most of a GGUF file's numbers are stored as, by llama.cpp's number of it; -1: not stated."""
    stated = gguf_header.read(file).metadata.get("general.file_type")
    return stated if isinstance(stated, int) else -1


def numbers_by_type(folder: Path) -> dict[str, int]:
    """Return how many numbers of a folder's weights are stored as which type, such as `BF16`.

    Raises:
        ValueError: a file is not a whole safetensors file.
    """
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for kind, shape in _tensors(file).values():
            counts[kind] = counts.get(kind, 0) + math.prod(shape)
    return counts


def missing_parts(folder: Path) -> list[str]:
    """Return what a folder lacks to be a base model in transformers' format."""
    parts = {
        "config.json": (folder / "config.json").is_file(),
        "*.safetensors": any(folder.glob("*.safetensors")),
        "tokenizer": any(folder.glob("tokenizer*")) or any(folder.glob("vocab.*")),
    }
    return [name for name, is_there in parts.items() if not is_there] + _missing_shards(folder)


def _missing_shards(folder: Path) -> list[str]:
    """Return the files of weights that the index names and that are not there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file() or (folder / "model.safetensors").is_file():
        return []
    try:
        shards = {str(shard) for shard in _json(index)["weight_map"].values()}
    except (KeyError, AttributeError, ValueError):
        return [f"readable {index.name}"]
    return sorted(shard for shard in shards if not (folder / shard).is_file())


def _stamp(files: Iterable[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Identify the state of files, so that facts are read once and again when one changes."""
    states = ((file.name, file.stat()) for file in sorted(files) if file.is_file())
    return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states)


@functools.lru_cache(maxsize=64)
def _of_folder(folder: Path, _stamp: object) -> ModelFacts:
    try:
        config = _json(folder / "config.json")
    except ValueError as error:
        return ModelFacts(problems=(f"config.json {error}",))
    problems: list[str] = []
    text = _text_config(config)
    tensors: dict[str, _Tensor] = {}
    for file in sorted(file for file in folder.glob("*.json") if file.name in _OBJECTS):
        try:
            _check_json(file)
        except ValueError as error:
            problems.append(f"{file.name} {error}")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= _tensors(file)
        except ValueError as error:
            problems.append(f"{file.name} {error}")
    problems += _config_problems(folder, config, text)
    if not problems:
        problems += _weight_problems(text, tensors)
    try:
        chat_template.check_folder(folder)
    except chat_template.UnusableTemplateError as error:
        problems.append(str(error))
    has_experts = _first_count(text, EXPERT_COUNTS) is not None
    return ModelFacts(
        context_tokens=_first_count(text, _CONTEXTS),
        has_end_token=_has_end_token(folder, config),
        has_experts=has_experts,
        problems=tuple(problems),
        shape=shape_of(config, tensors),
        layers=None if has_experts else target_modules.of_tensors(tensors),
    )


def shape_of(config: Mapping[str, Any], tensors: Mapping[str, _Tensor] = MappingProxyType({})) -> ModelShape | None:
    """Return how large a base model is; None: its config does not have the fields of a transformer.

    Args:
        config: the content of config.json.
        tensors: type and shape of each tensor of its weights; without them they are counted as a Llama's would be.
    """
    text = _text_config(config)
    width, layers, heads = (_first_count(text, names) for names in (_WIDTHS, _LAYER_COUNTS, _HEADS))
    vocabulary = _first_count(text, ("vocab_size",))
    if width is None or layers is None or heads is None or vocabulary is None:
        return None
    head = _first_count(text, ("head_dim",)) or width // heads
    attention = heads * head
    key_value = (_first_count(text, _KEY_VALUE_HEADS) or heads) * head
    inner = _first_count(text, _INNER_WIDTHS) or 4 * width
    sizes = [(width, attention), (width, key_value), (width, key_value), (attention, width)]
    sizes += [(width, inner), (width, inner), (inner, width)]
    linear = layers * sum(inputs * outputs for inputs, outputs in sizes)
    adapter = layers * sum(inputs + outputs for inputs, outputs in sizes)
    embeddings = vocabulary * width * (1 if config.get("tie_word_embeddings", text.get("tie_word_embeddings")) else 2)
    parameters = linear + embeddings
    if tensors:
        parameters = sum(math.prod(shape) for _, shape in tensors.values())
        adapted = [shape for name, (_, shape) in tensors.items() if _is_adapted(name, shape)]
        linear, adapter = sum(map(math.prod, adapted)), sum(map(sum, adapted))
    return ModelShape(parameters, linear, adapter, layers, width, inner, attention, vocabulary)


def _is_adapted(name: str, shape: list[int]) -> bool:
    """Whether a tensor is the weight of a linear layer inside of the language model's layers."""
    return len(shape) == 2 and _LAYER.search(name) is not None and OTHER_SENSES.isdisjoint(name.split("."))


def _json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: it is not one; says so as a clause.
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


_POINTER = "is a Git LFS pointer, not the file itself; fetch the files with `git lfs pull`"


def _check_json(file: Path) -> None:
    """Refuse a JSON file that is damaged; of a large one (a tokenizer of some MB) only that it is not a pointer.

    Raises:
        ValueError: it is; says so as a clause.
    """
    if file.stat().st_size <= _SMALL_BYTES:
        _json(file)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part that describes the language model; a model that also sees has it nested."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def _first_count(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _tensors(file: Path) -> dict[str, _Tensor]:
    """Read the header of a safetensors file: the type and shape of each tensor.

    Raises:
        ValueError: it is not a whole safetensors file; says so as a clause.
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
            found = {name: (str(entry["dtype"]), list(entry["shape"])) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError("has a damaged header; download it again") from error
    if size != needed:
        raise ValueError(f"has {size:,} bytes, but its header describes {needed:,}: it is cut off or damaged; "
                         "download it again")  # fmt: skip
    return found


def _config_problems(folder: Path, config: Mapping[str, Any], text: Mapping[str, Any]) -> Iterator[str]:
    if (folder / "adapter_config.json").is_file():
        yield (
            "adapter_config.json makes it an adapter of another base model; merge the two first (PEFT's "
            "merge_and_unload), or name that base model"
        )
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised:
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        yield (f"config.json says its weights are quantised{f' ({method})' if method else ''}; {_UNQUANTISED}")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        yield "config.json names no model_type; take the config.json that belongs to the weights"
        return
    named = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder"):
        yield f"config.json describes an encoder with a decoder ({kind}); {_NOT_CAUSAL}"
    elif named and not any(_CAUSAL.search(name) for name in named):
        yield f"config.json names the architecture {', '.join(named)}; {_NOT_CAUSAL}"
    elif kind in _BOTH_WAYS and not config.get("is_decoder"):
        yield f"config.json describes an encoder ({kind}), whose tokens see what follows them; {_NOT_CAUSAL}"
    vocabulary, pad = _first_count(text, ("vocab_size",)), text.get("pad_token_id")
    if vocabulary is not None and isinstance(pad, int) and pad >= vocabulary:
        yield (
            f"config.json says pad_token_id {pad:,}, which is outside its vocabulary of {vocabulary:,} tokens; set it "
            "to null or to a token"
        )


_UNQUANTISED = "tuning needs the unquantised model, or a GGUF file, which is converted"
_NOT_CAUSAL = "tunerun tunes causal language models only; choose one"


def _weight_problems(text: Mapping[str, Any], tensors: Mapping[str, _Tensor]) -> Iterator[str]:
    """Compare the weights with what config.json says of them, as far as names tell."""
    whole = [name for name, (kind, _) in tensors.items() if name.endswith("weight") and kind in _QUANTISED]
    if whole:
        yield f"{whole[0]} is stored as {tensors[whole[0]][0]}, so the weights are quantised; {_UNQUANTISED}"
    layers, stated = layer_count(tensors), _first_count(text, _LAYER_COUNTS)
    if stated is not None and layers is not None and layers < stated:
        yield _too_few_layers(stated, layers)
    vocabulary = _first_count(text, ("vocab_size",))
    rows = next((shape[0] for name, (_, shape) in tensors.items() if _EMBEDDING.search(name) and len(shape) == 2), None)
    if vocabulary is not None and rows is not None and rows < vocabulary:
        yield (
            f"config.json says vocab_size {vocabulary:,}, but the weights have {rows:,} tokens; take the config.json "
            "that belongs to the weights"
        )


def layer_count(tensors: Iterable[str], pattern: re.Pattern[str] = _LAYER) -> int | None:
    """Return how many layers the names of tensors show; None: no name has a layer's number."""
    found = [int(match[1]) for name in tensors if (match := pattern.search(name))]
    return max(found) + 1 if found else None


def _too_few_layers(stated: int, layers: int) -> str:
    return (
        f"its config says {stated} layers, but the weights have {layers}; a part of the weights is missing, or the "
        "config belongs to another model"
    )


def _has_end_token(folder: Path, config: Mapping[str, Any]) -> bool:
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
    return ModelFacts(
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        has_end_token="tokenizer.ggml.eos_token_id" in header.metadata or "tokenizer.chat_template" in header.metadata,
        has_experts=bool(header.of_architecture("expert_count")),
        problems=tuple(_gguf_problems(file, header)),
        shape=_gguf_shape(header),
        layers=target_modules.of_gguf(header.metadata.get("general.architecture"), header.tensors),
    )


def _gguf_shape(header: gguf_header.GgufHeader) -> ModelShape | None:
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
    return shape_of(config | {"tie_word_embeddings": "output.weight" not in header.tensors})


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
        yield f"{file.name} holds an encoder, whose tokens see what follows them; {_NOT_CAUSAL}"
    layers, stated = layer_count(header.tensors, _GGUF_LAYER), header.of_architecture("block_count")
    if parts == 1 and isinstance(stated, int) and (layers or 0) < stated:
        yield _too_few_layers(stated, layers or 0)
